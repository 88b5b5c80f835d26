import { expect, test } from "vitest";
import { translate, type Key } from ".";
import { en } from "./en";
import { zh } from "./zh";

test("a count chooses the singular or the plural", () => {
  expect(translate("en", "models.versions", { n: 1, v: 3 })).toBe("1 version, v3 live");
  expect(translate("en", "models.versions", { n: "2", v: 3 })).toBe("2 versions, v3 live");
  expect(translate("zh-Hant", "models.versions", { n: 1, v: 3 })).toBe("1 個版本，v3 服務中");
});

test("both languages use the same values", () => {
  const names = (text: string) => [...new Set([...text.matchAll(/\{(\w+)/g)].map((match) => match[1]))].sort();
  for (const key of Object.keys(en) as Key[]) expect(names(zh[key]), key).toEqual(names(en[key]));
});
