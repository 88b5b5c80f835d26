import { expect, test } from "vitest";
import { lessonsZh } from "../i18n/zh.lessons";
import { datasetOf, ownSpec, tableFor, tablesIn } from "./course";
import { COURSE, documentOf } from "./course.files";

test("the sixteen lessons are read from their own files", () => {
  expect(COURSE.map((lesson) => lesson.number)).toEqual(Array.from({ length: 16 }, (_, index) => index + 1));
  for (const lesson of COURSE) {
    for (const part of [lesson.title, lesson.goal, lesson.look, lesson.figures]) expect(part, lesson.id).not.toBe("");
    expect(lesson.specs.length, lesson.id).toBeGreaterThan(0);
    expect(lesson.claims.length, lesson.id).toBeGreaterThan(0);
    expect(lessonsZh[lesson.id]?.claims.length, lesson.id).toBe(lesson.claims.length);
    // What is code stays what it is
    const code = (text: string) => [...text.matchAll(/`[^`]+`/g)].map(([piece]) => piece.replace(/\s+/g, " ")).sort();
    expect(code(lessonsZh[lesson.id]?.look ?? ""), lesson.id).toEqual(code(lesson.look));
    for (const spec of lesson.specs) expect(datasetOf(spec.text), spec.file).not.toBe("");
  }
  expect(COURSE[0]?.goal.startsWith("A network without a hidden layer")).toBe(true);
});

test("a table is made as the script makes it", () => {
  expect(tablesIn('client.datasets.sample("xor", "xor-few", noise=25, rows=200)')).toEqual([{ sample: "xor", name: "xor-few", options: { noise: 25, rows: 200 } }]);
  const early = COURSE.find((lesson) => lesson.number === 7);
  if (!early) throw new Error("no lesson 7");
  expect(tableFor(early, "xor-few").options).toEqual({ noise: 25, rows: 200 });
  expect(tableFor(early, "circle")).toEqual({ sample: "circle", name: "circle", options: {} });
});

test("documents are there, and a lesson's spec registers no model", () => {
  for (const name of ["glossary", "tutorial", "tutorial-zh"]) expect(documentOf(name), name).not.toBe("");
  expect(ownSpec("dataset: a\nmodel: lesson-digits\ntarget: b\n")).not.toContain("model");
});
