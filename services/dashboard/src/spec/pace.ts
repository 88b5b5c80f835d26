/**
 * Which frames of an animation are drawn. A machine that cannot draw sixty times a second draws every second one, or
 * fewer: all frames come in time then, so the page answers at once, and only the picture moves less often.
 */

const WINDOW_MS = 500; // over which frames are counted
const FEW = 54; // frames a second: drawing takes too long
const ENOUGH = 58; // frames a second: more could be drawn
const GAIN = 1.08; // of frames, without which drawing is not what keeps them
const MOST = 4; // frames for one that is drawn
const PATIENCE = 6; // windows before more is drawn again
const MOST_PATIENCE = 96;
const REST = 60; // windows without a try, where drawing less was of no use

export class Pace {
  /** One of so many frames is drawn. */
  every = 1;
  private count = 0;
  private since: number | null = null;
  private frames = 0;
  private slowRate: number | null = null; // before less was drawn, until it is known whether that helped
  private good = 0; // windows in a row
  private patience = PATIENCE;
  private triesMore = false;
  private rest = 0;

  /** Count a frame, and return whether it is to be drawn. */
  frame(now: number): boolean {
    this.count += 1;
    this.since ??= now;
    const passed = now - this.since;
    if (passed >= WINDOW_MS) {
      // A page that was hidden has had no frames.
      if (passed < 3 * WINDOW_MS) this.judge((1000 * this.frames) / passed);
      this.since = now;
      this.frames = 0;
    }
    this.frames += 1;
    return this.count % this.every === 0;
  }

  private judge(rate: number): void {
    const before = this.slowRate;
    this.slowRate = null;
    if (this.rest > 0) this.rest -= 1;
    else if (rate < FEW) this.drawLess(rate, before);
    else if (rate >= ENOUGH && this.every > 1) this.drawMore();
  }

  private drawLess(rate: number, before: number | null): void {
    this.good = 0;
    if (before !== null && rate < before * GAIN) {
      // The screen itself is slow, or others take the time.
      this.every = 1;
      this.rest = REST;
      return;
    }
    if (this.triesMore) this.patience = Math.min(MOST_PATIENCE, 2 * this.patience);
    this.triesMore = false;
    if (this.every === MOST) return;
    this.every += 1;
    this.slowRate = rate;
  }

  private drawMore(): void {
    this.good += 1;
    if (this.good < this.patience) return;
    this.every -= 1;
    this.good = 0;
    this.triesMore = true;
  }
}
