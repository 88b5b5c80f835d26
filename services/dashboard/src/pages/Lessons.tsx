import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useState, type ReactNode } from "react";
import { Link } from "react-router";
import { ApiError, get, seg } from "../api/client";
import { makeSample } from "../api/datasets";
import { isLive, submit } from "../api/runs";
import type { RunPage as RunList } from "../api/types";
import { Badge, Button, Card, ErrorView, Notice, Select } from "../components/basics";
import { AddressTabs } from "../components/dialogs";
import { Inline, Markdown } from "../components/Markdown";
import { shortId, StateBadge } from "../components/RunBits";
import { showError, showMessage } from "../components/toasts";
import { useLanguage, useText } from "../i18n";
import { lessonsZh } from "../i18n/zh.lessons";
import { datasetOf, ownSpec, tableFor, tagOf, type CourseLesson } from "../spec/course";
import { COURSE, documentOf } from "../spec/course.files";
import { useInAddress } from "../state/address";

/** The course of `examples/` to go through in the page, with the tutorial and the glossary beside it. */
export default function Lessons() {
  const t = useText();
  const language = useLanguage();
  return (
    <div className="page">
      <div>
        <h1>{t("nav.lessons")}</h1>
        <p className="muted">{t("lessons.lead")}</p>
      </div>
      <AddressTabs
        label={t("nav.lessons")}
        tabs={[
          { id: "course", title: t("lessons.course"), content: () => <Course /> },
          { id: "tutorial", title: t("lessons.tutorial"), content: () => <Document name={language === "zh-Hant" ? "tutorial-zh" : "tutorial"} /> },
          { id: "glossary", title: t("lessons.glossary"), content: () => <Document name="glossary" /> },
        ]}
      />
    </div>
  );
}

function Document({ name }: { name: string }) {
  // The page has a heading of its own.
  return (
    <Card>
      <Markdown text={documentOf(name).replace(/^# .*\n/, "")} />
    </Card>
  );
}

function Course() {
  const t = useText();
  const language = useLanguage();
  const [chosen, choose] = useInAddress("lesson", COURSE[0]?.id ?? "");
  const lesson = COURSE.find((one) => one.id === chosen) ?? COURSE[0];
  const titleOf = (one: CourseLesson) => (language === "zh-Hant" ? lessonsZh[one.id]?.title : undefined) ?? one.title;
  if (!lesson) return null;
  return (
    <div className="columns lessons">
      <div className="narrow-only">
        <Select label={t("lessons.course")} value={lesson.id} choices={COURSE.map((one) => ({ value: one.id, label: `${one.number}. ${titleOf(one)}` }))} onChange={choose} />
      </div>
      <nav className="wide-only" aria-label={t("lessons.course")}>
        <ol className="plain-list flush">
          {COURSE.map((one) => (
            <li key={one.id}>
              <button type="button" className="linklike" aria-current={one.id === lesson.id ? "page" : undefined} onClick={() => choose(one.id)}>
                {one.number}. {titleOf(one)}
              </button>
            </li>
          ))}
        </ol>
      </nav>
      <LessonView key={lesson.id} lesson={lesson} title={titleOf(lesson)} />
    </div>
  );
}

/** The runs of a lesson, which its steps are checked by. */
const useLessonRuns = (lesson: CourseLesson) =>
  useQuery({
    queryKey: ["runs", "lesson", lesson.id],
    queryFn: ({ signal }) => get<RunList>("/api/v1/runs", { tag: tagOf(lesson), limit: 20 }, signal),
    refetchInterval: (query) => (query.state.data?.items.some(isLive) ? 1500 : 15_000),
  });

/** Whether a dataset of this name is there. */
const useTable = (name: string) =>
  useQuery({
    queryKey: ["datasets", "lesson", name],
    queryFn: async ({ signal }) => {
      try {
        await get(`/api/v1/datasets/${seg(name)}`, undefined, signal);
        return true;
      } catch (error) {
        if (error instanceof ApiError && error.status === 404) return false;
        throw error;
      }
    },
  });

function LessonView({ lesson, title }: { lesson: CourseLesson; title: string }) {
  const t = useText();
  const queries = useQueryClient();
  const zh = useLanguage() === "zh-Hant" ? lessonsZh[lesson.id] : undefined;
  const [first] = lesson.specs;
  const name = datasetOf(first?.text ?? "");
  const table = useTable(name);
  const runs = useLessonRuns(lesson);
  const [busy, setBusy] = useState(false);
  const started = runs.data?.items ?? [];
  const ended = started.filter((run) => run.state === "succeeded");
  const act = (work: Promise<unknown>, key: string) => {
    setBusy(true);
    work
      .then(() => queries.invalidateQueries({ queryKey: [key] }))
      .catch(showError)
      .finally(() => setBusy(false));
  };
  const make = () => {
    const wanted = tableFor(lesson, name);
    act(makeSample({ sample: wanted.sample, name: wanted.name, ...wanted.options }).then(() => showMessage(t("saved"))), "datasets");
  };
  const train = (file: string, text: string) => act(submit(ownSpec(text), { name: `${tagOf(lesson)}: ${file.replace(/\.yaml$/, "")}`, tags: [tagOf(lesson)] }), "runs");
  const byScript = name.startsWith("lab-");
  return (
    <div className="stack">
      <Card title={`${lesson.number}. ${title}`}>
        <p>{zh?.goal ?? <Inline text={lesson.goal.replace(/\n/g, " ")} />}</p>
      </Card>
      <Card title={t("lessons.steps")}>
        <ol className="stack plain-steps">
          <Step done={table.data === true} title={t("lessons.table", { name })}>
            {table.error && <ErrorView error={table.error} />}
            {table.data === false &&
              (byScript ? (
                <p className="small">
                  {t("lessons.script")} <code>python -m examples.{lesson.id}.run</code>
                </p>
              ) : (
                <div className="row">
                  <Button small disabled={busy} onPress={make}>
                    {t("lessons.table.make")}
                  </Button>
                </div>
              ))}
          </Step>
          <Step done={started.length > 0} title={t("lessons.train")}>
            <div className="row tight">
              {lesson.specs.map((spec) => (
                <Button key={spec.file} small disabled={busy || table.data !== true} onPress={() => train(spec.file, spec.text)}>
                  {t("lessons.train.spec", { file: spec.file })}
                </Button>
              ))}
              {lesson.specs.map((spec) => (
                <Link key={spec.file} className="small" to={`/new?spec=${encodeURIComponent(ownSpec(spec.text))}`}>
                  {t("lessons.edit", { file: spec.file })}
                </Link>
              ))}
            </div>
          </Step>
          <Step done={ended.length > 0} title={t("lessons.wait")}>
            <ul className="plain-list flush">
              {started.slice(0, 6).map((run) => (
                <li key={run.id}>
                  <Link to={`/runs/${seg(run.id)}`}>{run.name ?? shortId(run.id)}</Link>
                  <StateBadge state={run.state} />
                </li>
              ))}
            </ul>
          </Step>
          <Step done={null} title={t("lessons.look")}>
            <p className="small">
              <Inline text={(zh?.look ?? lesson.look).replace(/\n/g, " ")} />
            </p>
          </Step>
        </ol>
      </Card>
      <Questions lesson={lesson} />
    </div>
  );
}

function Step({ done, title, children }: { done: boolean | null; title: string; children: ReactNode }) {
  const t = useText();
  return (
    <li className="stack tight">
      <div className="row tight">
        <strong>{title}</strong>
        {done !== null && <Badge tone={done ? "good" : "plain"}>{t(done ? "lessons.done" : "lessons.open")}</Badge>}
      </div>
      {children}
    </li>
  );
}

/** What the lesson's script found, as questions: think first, then see its figures. */
function Questions({ lesson }: { lesson: CourseLesson }) {
  const t = useText();
  const claims = useLanguage() === "zh-Hant" ? lessonsZh[lesson.id]?.claims : undefined;
  const [answers, setAnswers] = useState<Record<string, boolean>>({});
  return (
    <Card title={t("lessons.questions")}>
      <div className="stack">
        <p className="small muted">{t("lessons.questions.text")}</p>
        {(claims ?? lesson.claims).map((claim) => {
          const answer = answers[claim];
          return (
            <div key={claim} className="stack tight">
              <p>{claim}</p>
              <div className="row tight">
                {[true, false].map((value) => (
                  <Button key={String(value)} small label={`${t(value ? "lessons.yes" : "lessons.no")}: ${claim}`} onPress={() => setAnswers((old) => ({ ...old, [claim]: value }))}>
                    {t(value ? "lessons.yes" : "lessons.no")}
                  </Button>
                ))}
              </div>
              {answer !== undefined && <Notice tone={answer ? "good" : "warn"}>{t(answer ? "lessons.right" : "lessons.wrong")}</Notice>}
            </div>
          );
        })}
        <details>
          <summary className="small">{t("lessons.figures")}</summary>
          <pre className="code" tabIndex={0} aria-label={t("lessons.figures")}>
            {lesson.figures}
          </pre>
        </details>
      </div>
    </Card>
  );
}
