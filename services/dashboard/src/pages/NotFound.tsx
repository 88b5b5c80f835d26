import { Link } from "react-router";
import { Empty } from "../components/basics";
import { useText } from "../i18n";

export default function NotFound() {
  const t = useText();
  return (
    <div className="page">
      <h1>{t("notfound.title")}</h1>
      <Empty title={t("notfound.text")}>
        <Link to="/">{t("notfound.home")}</Link>
      </Empty>
    </div>
  );
}
