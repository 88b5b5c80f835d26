import { describe, expect, it } from "vitest";
import { Pace } from "./pace";

/** Run frames for some seconds; one that is drawn takes `drawing` ms, and the screen shows one every `screen` ms at most. */
function run(pace: Pace, seconds: number, drawing: number, screen = 1000 / 60): { frames: number; drawn: number } {
  let [now, frames, drawn] = [0, 0, 0];
  const end = 1000 * seconds;
  while (now < end) {
    frames += 1;
    const draws = pace.frame(now);
    if (draws) drawn += 1;
    now += Math.max(screen, draws ? drawing : 1);
  }
  return { frames: frames / seconds, drawn: drawn / seconds };
}

describe("the pace of an animation", () => {
  it("draws every frame where there is time", () => {
    expect(run(new Pace(), 10, 9)).toEqual({ frames: expect.closeTo(60, 0) as number, drawn: expect.closeTo(60, 0) as number });
  });

  it("draws fewer frames where drawing takes long, and keeps the others in time", () => {
    const pace = new Pace();
    run(pace, 5, 22);
    const { frames, drawn } = run(pace, 20, 22);
    expect(frames).toBeGreaterThan(50);
    expect(drawn).toBeGreaterThan(12);
    expect(pace.every).toBeGreaterThan(1);
  });

  it("draws more again once there is time", () => {
    const pace = new Pace();
    run(pace, 5, 40);
    run(pace, 60, 5);
    expect(pace.every).toBe(1);
  });

  it("draws every frame of a slow screen", () => {
    const pace = new Pace();
    run(pace, 5, 5, 1000 / 30);
    expect(run(pace, 20, 5, 1000 / 30).drawn).toBeGreaterThan(28);
  });
});
