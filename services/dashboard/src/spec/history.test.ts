import { describe, expect, it } from "vitest";
import { begin, changed, redone, undone } from "./history";

describe("a text with its history", () => {
  it("goes back and forth step by step", () => {
    const two = changed(changed(begin("a"), "a\nlayer one", 0), "a\nlayer one\nlayer two", 10);
    expect(undone(two).text).toBe("a\nlayer one");
    expect(undone(undone(undone(two))).text).toBe("a");
    expect(redone(undone(two))).toMatchObject({ text: two.text, past: two.past, future: [] });
    expect(redone(two)).toBe(two);
  });

  it("takes letters typed in a row for one step", () => {
    const typed = ["ab", "abc", "abcd"].reduce((history, text, at) => changed(history, text, 1000 + 100 * at), changed(begin("a"), "a b", 0));
    expect(undone(typed).text).toBe("a b");
    expect(undone(changed(typed, "abcde", 9000)).text).toBe("abcd");
  });

  it("forgets what was undone once something else is written", () => {
    const again = changed(undone(changed(begin("a"), "a and b", 0)), "a and c", 100);
    expect(redone(again)).toBe(again);
    expect(undone(again).text).toBe("a");
  });
});
