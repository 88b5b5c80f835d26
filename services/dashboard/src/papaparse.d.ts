/** The part of papaparse that these pages use; its own types need those of Node. */
declare module "papaparse" {
  export interface ParseResult {
    data: string[][];
    errors: { message: string; row?: number }[];
    meta: { delimiter: string };
  }
  export function parse(text: string, options: { skipEmptyLines: "greedy" }): ParseResult;
}
