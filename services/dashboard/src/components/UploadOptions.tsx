import type { UploadOptions } from "../api/upload";
import { useText } from "../i18n";
import { Check, Select } from "./basics";

const DELIMITERS = [",", ";", "\t", "|", " "] as const;
const ENCODINGS = ["utf-8", "utf-16", "windows-1252", "windows-1250", "windows-1251", "koi8-r", "big5", "gb18030", "shift_jis", "euc-kr"] as const;
const LINES = Array.from({ length: 21 }, (_, count) => String(count));
const lines = (count: number | null | undefined): string => (count === null || count === undefined ? "" : String(count));

/** Import options, for tables whose format is not detected correctly. */
export function UploadOptionsForm({ options, onChange }: { options: UploadOptions; onChange: (options: UploadOptions) => void }) {
  const t = useText();
  const auto = { value: "", label: t("upload.auto") };
  const names: Record<string, string> = { ",": t("upload.comma"), ";": t("upload.semicolon"), "\t": t("upload.tab"), "|": "|", " ": t("upload.space") };
  const set = (part: UploadOptions) => onChange({ ...options, ...part });
  const header = options.header === null || options.header === undefined ? "" : String(options.header);
  return (
    <details>
      <summary className="small">{t("upload.options")}</summary>
      <div className="stack tight">
        <div className="fields">
          <Select label={t("upload.delimiter")} value={options.delimiter ?? ""} choices={[auto, ...DELIMITERS.map((value) => ({ value: value as string, label: names[value] ?? value }))]} onChange={(value) => set({ delimiter: value || null })} />
          <Select label={t("upload.encoding")} value={options.encoding ?? ""} choices={[auto, ...ENCODINGS]} onChange={(value) => set({ encoding: value || null })} />
          <Select label={t("upload.decimal")} value={options.decimal ?? ""} choices={[auto, ".", ","]} onChange={(value) => set({ decimal: value === "." || value === "," ? value : null })} />
          <Select
            label={t("upload.header")}
            value={header}
            choices={[auto, { value: "true", label: t("yes") }, { value: "false", label: t("no") }]}
            onChange={(value) => set({ header: value === "" ? null : value === "true" })}
          />
          <Select label={t("upload.quote")} value={options.quote ?? ""} choices={[auto, '"', "'", { value: "none", label: t("form.none") }]} onChange={(value) => set({ quote: value || null })} />
          <Select label={t("upload.comment")} value={options.comment ?? ""} choices={[auto, "#", "%", ";", { value: "none", label: t("form.none") }]} onChange={(value) => set({ comment: value || null })} />
          <Select label={t("upload.skipRows")} value={lines(options.skip_rows)} choices={[auto, ...LINES]} onChange={(value) => set({ skip_rows: value === "" ? null : Number(value) })} />
          <Select label={t("upload.footer")} value={lines(options.footer)} choices={[auto, ...LINES]} onChange={(value) => set({ footer: value === "" ? null : Number(value) })} />
        </div>
        <Check label={t("upload.lenient")} checked={options.lenient ?? false} onChange={(lenient) => set({ lenient })} />
      </div>
    </details>
  );
}
