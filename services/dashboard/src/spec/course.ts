/** The course of `examples/`, read from the lessons' own files: README, specs and script. */

import { edit } from "./document";

export interface CourseTable {
  sample: string;
  name: string;
  options: Record<string, number>;
}

export interface CourseLesson {
  /** The folder's name, such as `01_perceptron`. */
  id: string;
  number: number;
  title: string;
  goal: string;
  look: string;
  specs: { file: string; text: string }[];
  /** What its script makes first. */
  tables: CourseTable[];
  /** What its script found to hold, and its figures. */
  claims: string[];
  figures: string;
}

type Files = Record<string, string>;

const folderOf = (path: string): string => /(\d\d_\w+)\/[^/]+$/.exec(path)?.[1] ?? "";
const fileOf = (path: string): string => path.split("/").at(-1) ?? "";

function section(text: string, title: string): string {
  return new RegExp(`## ${title}\\n([\\s\\S]*?)(?=\\n## |$)`).exec(text)?.[1]?.trim() ?? "";
}

/** `client.datasets.sample("xor", "xor-few", noise=25, rows=200)` as what is sent for it. */
export function tablesIn(script: string): CourseTable[] {
  return [...script.matchAll(/datasets\.sample\("([\w-]+)"(?:, "([\w-]+)")?((?:, \w+=\d+)*)\)/g)].map(([, sample = "", name, options = ""]) => ({
    sample,
    name: name ?? sample,
    options: Object.fromEntries([...options.matchAll(/(\w+)=(\d+)/g)].map(([, key = "", value]) => [key, Number(value)])),
  }));
}

export function courseOf(readmes: Files, specs: Files, scripts: Files): CourseLesson[] {
  return Object.entries(readmes)
    .map(([path, text]): CourseLesson => {
      const id = folderOf(path);
      const own = (files: Files) => Object.entries(files).filter(([other]) => folderOf(other) === id);
      const output = /```text\n([\s\S]*?)```/.exec(section(text, "Expected output"))?.[1] ?? "";
      return {
        id,
        number: Number(id.slice(0, 2)),
        title: (/^# \d+\. (.*)$/m.exec(text)?.[1] ?? id).trim(),
        goal: /^# .*\n([\s\S]*?)\n## /.exec(text)?.[1]?.trim() ?? "",
        look: section(text, "What to look at in the dashboard"),
        specs: own(specs).map(([other, content]) => ({ file: fileOf(other), text: content })),
        tables: own(scripts).flatMap(([, content]) => tablesIn(content)),
        claims: [...output.matchAll(/^yes +(.*)$/gm)].map((match) => match[1] ?? ""),
        figures: output.split(/\n\n/)[0] ?? "",
      };
    })
    .sort((a, b) => a.number - b.number);
}

/** The name of a spec's dataset. */
export const datasetOf = (text: string): string => /^dataset: *([\w.-]+)/m.exec(text)?.[1] ?? "";

/** The table that a spec's dataset is, as the lesson's script makes it; a sample of that name otherwise. */
export function tableFor(lesson: CourseLesson, dataset: string): CourseTable {
  return lesson.tables.find((table) => table.name === dataset) ?? { sample: dataset, name: dataset, options: {} };
}

export const tagOf = (lesson: CourseLesson): string => `lesson ${lesson.number}`;

/** A lesson's spec without its model, so that going through it again moves no live traffic. */
export const ownSpec = (text: string): string => edit(text, ["model"], undefined);
