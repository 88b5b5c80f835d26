import { useQuery, useQueryClient } from "@tanstack/react-query";
import { lazy, Suspense, useEffect, useState, type ComponentType } from "react";
import { NavLink, Route, Routes, Link, useLocation } from "react-router";
import { ApiError } from "./api/client";
import { signIn, signOut, whoAmI, type Me } from "./api/session";
import { Button, Loading, Segment, Select } from "./components/basics";
import { Connection } from "./components/Connection";
import { Icon } from "./components/icons";
import { Palette } from "./components/Palette";
import { Toasts } from "./components/toasts";
import { setLanguage, useLanguage, useText, type Language } from "./i18n";
import { SignIn } from "./pages/SignIn";
import { setTheme, useTheme, type Theme } from "./state/preferences";

/** A page whose code is fetched when it is needed: at once where the address is its own, beside asking who is signed in. */
function page(path: RegExp, load: () => Promise<{ default: ComponentType }>): ComponentType {
  if (path.test(window.location.pathname)) void load().catch(() => undefined); // asked for again, and refused, when it is shown
  return lazy(load);
}

const Home = page(/^\/$/, () => import("./pages/Home"));
const Datasets = page(/^\/datasets$/, () => import("./pages/Datasets"));
const DatasetPage = page(/^\/datasets\/./, () => import("./pages/DatasetPage"));
const NewRun = page(/^\/new$/, () => import("./pages/NewRun"));
const Runs = page(/^\/runs$/, () => import("./pages/Runs"));
const RunPage = page(/^\/runs\/./, () => import("./pages/RunPage"));
const Compare = page(/^\/compare/, () => import("./pages/Compare"));
const Models = page(/^\/models$/, () => import("./pages/Models"));
const ModelPage = page(/^\/models\/./, () => import("./pages/ModelPage"));
const Playground = page(/^\/playground/, () => import("./pages/Playground"));
const Lessons = page(/^\/lessons/, () => import("./pages/Lessons"));
const Automations = page(/^\/automations/, () => import("./pages/Automations"));
const System = page(/^\/system/, () => import("./pages/System"));
const NotFound = lazy(() => import("./pages/NotFound"));

/** Signs in with the key from the printed address, or asks for one. */
export function App({ offeredKey }: { offeredKey: string | null }) {
  const queries = useQueryClient();
  const [offered, setOffered] = useState(offeredKey);
  const me = useQuery({
    queryKey: ["session"],
    queryFn: async () => {
      if (offered === null) return whoAmI();
      // A link that has been used already, perhaps by this browser, which is still signed in.
      const signed = await signIn(offered).catch((error: unknown) => whoAmI().catch(() => Promise.reject(error as Error)));
      setOffered(null);
      return signed;
    },
    retry: false,
    staleTime: Number.POSITIVE_INFINITY,
  });
  if (me.isPending) {
    return (
      <div className="boot">
        <Loading />
      </div>
    );
  }
  const refused = me.error instanceof ApiError && me.error.status !== 0;
  const ended = me.data !== undefined && me.error instanceof ApiError && me.error.status === 401;
  if (me.data === undefined || ended) {
    return <SignIn problem={refused && offered === null ? null : me.error} ended={ended} onSigned={(who) => queries.setQueryData(["session"], who)} />;
  }
  return (
    <Shell
      me={me.data}
      onSignOut={() =>
        void signOut().then(() => {
          queries.clear();
          window.location.assign("/");
        })
      }
    />
  );
}

function Shell({ me, onSignOut }: { me: Me; onSignOut: () => void }) {
  const t = useText();
  useTitle();
  return (
    <div className="shell">
      <a className="skip" href="#content">
        {t("skip")}
      </a>
      <header className="side">
        <Link className="brand" to="/" aria-label="fitserve">
          <img src="/favicon.svg" alt="" width={26} height={26} />
          <span>fitserve</span>
        </Link>
        <Palette />
        <nav aria-label={t("nav.label")}>
          <ul className="nav">
            <Item to="/datasets" icon="table" text={t("nav.datasets")} />
            <Item to="/new" icon="plus" text={t("nav.new")} />
            <Item to="/runs" icon="curve" text={t("nav.runs")} />
            <Item to="/models" icon="box" text={t("nav.models")} />
            <Item to="/playground" icon="play" text={t("nav.playground")} />
            <Item to="/lessons" icon="book" text={t("nav.lessons")} />
            <Item to="/automations" icon="reset" text={t("nav.automations")} />
            <Item to="/system" icon="gauge" text={t("nav.system")} />
          </ul>
        </nav>
        <div className="side-foot">
          <ThemeChoice />
          <LanguageChoice />
          <div className="row between who">
            <span className="clip muted" title={me.key_id}>
              {me.owner}
            </span>
            <Button small tone="quiet" onPress={onSignOut}>
              {t("signout")}
            </Button>
          </div>
        </div>
      </header>
      <main className="main" id="content" tabIndex={-1}>
        <Connection />
        <Suspense fallback={<Loading />}>
          <Routes>
            <Route path="/" element={<Home />} />
            <Route path="/datasets" element={<Datasets />} />
            <Route path="/datasets/:ref" element={<DatasetPage />} />
            <Route path="/new" element={<NewRun />} />
            <Route path="/runs" element={<Runs />} />
            <Route path="/runs/:id" element={<RunPage />} />
            <Route path="/compare" element={<Compare />} />
            <Route path="/models" element={<Models />} />
            <Route path="/models/:name" element={<ModelPage />} />
            <Route path="/playground" element={<Playground />} />
            <Route path="/lessons" element={<Lessons />} />
            <Route path="/automations" element={<Automations />} />
            <Route path="/system" element={<System />} />
            <Route path="*" element={<NotFound />} />
          </Routes>
        </Suspense>
      </main>
      <Toasts />
    </div>
  );
}

function Item({ to, icon, text }: { to: string; icon: Parameters<typeof Icon>[0]["name"]; text: string }) {
  return (
    <li>
      <NavLink to={to}>
        <Icon name={icon} />
        {text}
      </NavLink>
    </li>
  );
}

/** Sets the tab's title to the page's heading, and scrolls to the top of a new page. */
function useTitle(): void {
  const { pathname } = useLocation();
  useEffect(() => {
    window.scrollTo(0, 0);
    const watch = new MutationObserver(() => {
      // A heading's badges are not part of its name.
      const heading = (document.querySelector("main h1 .break") ?? document.querySelector("main h1"))?.textContent;
      const title = heading ? `${heading} · fitserve` : "fitserve";
      if (document.title !== title) document.title = title;
    });
    const main = document.querySelector("main");
    if (main) watch.observe(main, { childList: true, subtree: true, characterData: true });
    return () => watch.disconnect();
  }, [pathname]);
}

function ThemeChoice() {
  const t = useText();
  const theme = useTheme();
  const choices: { value: Theme; label: string }[] = [
    { value: "light", label: t("theme.light") },
    { value: "dark", label: t("theme.dark") },
    { value: "auto", label: t("theme.auto") },
  ];
  return <Segment label={t("theme")} value={theme} choices={choices} onChange={setTheme} />;
}

function LanguageChoice() {
  const t = useText();
  const language = useLanguage();
  return (
    <Select
      label={t("language")}
      hideLabel
      small
      value={language}
      choices={[
        { value: "en", label: "English" },
        { value: "zh-Hant", label: "繁體中文" },
      ]}
      onChange={(next) => setLanguage(next as Language)}
    />
  );
}
