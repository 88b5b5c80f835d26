import { expect, test } from "vitest";
import { expand, shortest } from "./columns";

const pixels = Array.from({ length: 783 }, (_, index) => `pixel${index}`);
const wide = [...pixels, "age", "sex"];

test("a wide table needs no long list", () => {
  expect(shortest(wide, wide)).toBeUndefined();
  expect(shortest(wide.filter((name) => name !== "pixel3"), wide)).toEqual(["-pixel3"]);
  expect(shortest(pixels, wide)).toEqual(["pixel*"]);
  expect(shortest(["age", "sex"], wide)).toEqual(["age", "sex"]);
  expect(shortest(wide.filter((name) => !name.startsWith("pixel1")), wide)).toEqual(["-pixel1*"]);
  expect(shortest([], wide)).toEqual([]);
});

test("what is written means what is chosen", () => {
  for (const chosen of [["age"], ["pixel1", "pixel2", "pixel3", "sex"], pixels.slice(4), [...pixels.slice(0, 400), "sex"]]) {
    expect(new Set(expand(shortest(chosen, wide) ?? wide, wide))).toEqual(new Set(chosen));
  }
  expect(expand(["*", "-pixel*"], wide)).toEqual(["age", "sex"]);
  expect(expand(["-odd", "a"], ["-odd", "a", "b"])).toEqual(["-odd", "a"]);
});
