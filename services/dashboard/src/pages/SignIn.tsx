import { useState } from "react";
import { signIn, type Me } from "../api/session";
import { Button, ErrorView, Field, Notice } from "../components/basics";
import { useText } from "../i18n";

interface Props {
  problem: unknown;
  ended: boolean; // the visitor was signed in before
  onSigned: (me: Me) => void;
}

export function SignIn({ problem, ended, onSigned }: Props) {
  const t = useText();
  const [token, setToken] = useState("");
  const [error, setError] = useState<unknown>(problem);
  return (
    <main className="signin">
      <form
        className="card"
        onSubmit={(event) => {
          event.preventDefault();
          signIn(token.trim()).then(onSigned, setError);
        }}
      >
        <div className="body stack">
          <div className="row">
            <img src="/favicon.svg" alt="" width={34} height={34} />
            <h1>fitserve</h1>
          </div>
          <p className="muted">{t("signin.why")}</p>
          {ended && <Notice tone="warn">{t("signin.ended")}</Notice>}
          {error !== null && error !== undefined && <ErrorView error={error} />}
          <Field label={t("signin.key")} hint={t("signin.hint")}>
            {(id) => (
              <input
                id={id}
                className="input mono"
                type="password"
                autoComplete="off"
                value={token}
                onChange={(event) => setToken(event.target.value)}
              />
            )}
          </Field>
          <Button tone="primary" type="submit" disabled={!token.trim()}>
            {t("signin")}
          </Button>
        </div>
      </form>
    </main>
  );
}
