import type { DatasetInfo } from "../api/types";
import { useText } from "../i18n";
import { Notice } from "./basics";

/** What was decided while a table was read, and the option that decides otherwise. */
export function Notices({ notices }: { notices: DatasetInfo["notices"] }) {
  const t = useText();
  if (!notices?.length) return null;
  return (
    <Notice tone="info">
      <strong>{t("upload.notices")}</strong>
      <ul>
        {notices.map((notice, index) => (
          <li key={index}>
            {notice.message}
            {notice.evidence && <span className="muted"> ({notice.evidence})</span>}
            {notice.option && (
              <>
                {" "}
                {t("upload.otherwise")} <code>{notice.option}</code>
              </>
            )}
          </li>
        ))}
      </ul>
    </Notice>
  );
}
