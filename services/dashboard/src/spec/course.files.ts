/** The files of `examples/` and `docs/` as they are when the pages are built. */

import { courseOf } from "./course";

const readmes = import.meta.glob<string>("../../../../examples/[0-9]*/README.md", { query: "?raw", import: "default", eager: true });
const specs = import.meta.glob<string>("../../../../examples/[0-9]*/*.yaml", { query: "?raw", import: "default", eager: true });
const scripts = import.meta.glob<string>("../../../../examples/[0-9]*/run.py", { query: "?raw", import: "default", eager: true });
const documents = import.meta.glob<string>("../../../../docs/{glossary,tutorial,tutorial-zh}.md", { query: "?raw", import: "default", eager: true });

export const COURSE = courseOf(readmes, specs, scripts);

/** A document of `docs/` by its name. */
export const documentOf = (name: string): string => Object.entries(documents).find(([path]) => path.endsWith(`/${name}.md`))?.[1] ?? "";
