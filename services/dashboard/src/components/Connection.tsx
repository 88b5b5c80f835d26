import { useQueryClient } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { whoAmI } from "../api/session";
import { useAnswers } from "../api/connection";
import { useText } from "../i18n";
import { Button, Notice } from "./basics";

const RETRY_SECONDS = 3;

/** Says that the server does not answer, tries again until it does, and then reads everything on the page anew. */
export function Connection() {
  const t = useText();
  const answers = useAnswers();
  const queries = useQueryClient();
  const [tries, setTries] = useState(0);
  useEffect(() => {
    if (answers) return undefined;
    const timer = setTimeout(() => void whoAmI().catch(() => setTries((n) => n + 1)), 1000 * RETRY_SECONDS);
    return () => clearTimeout(timer);
  }, [answers, tries]);
  // Runs when the server answers again, that is, when the effect of its absence ends.
  useEffect(() => {
    if (answers) return undefined;
    return () => void queries.invalidateQueries();
  }, [answers, queries]);
  if (answers) return null;
  return (
    <div className="outage" role="status">
      <Notice tone="bad">
        <span>{t("outage")}</span>{" "}
        <Button small onPress={() => void whoAmI().catch(() => setTries((n) => n + 1))}>
          {t("outage.retry")}
        </Button>
      </Notice>
    </div>
  );
}
