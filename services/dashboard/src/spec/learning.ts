/** The playground's training as it goes on: frames, history, and what the page shows of it. */

import type { Losses, Penalty, Trainer } from "./trainer";

/** What the page shows; a new object whenever something changed. */
export interface Shown {
  /** The epoch shown; `trained` is the last one. */
  epoch: number;
  trained: number;
  playing: boolean;
  weights: Float32Array;
  /** By epoch, from 1. They only grow. */
  losses: readonly Losses[];
}

export interface Settings {
  rate: number;
  batch: number;
  penalty: Penalty;
  /** Epochs a second. */
  speed: number;
  /** Play stops at every multiple of so many epochs. */
  epochs: number;
}

const MOST_KEPT = 5000; // epochs whose weights can be shown again
const FRAME_MS = 9; // of a frame's sixteen that training may take

export class Learning {
  private readonly kept: Float32Array[];
  private readonly losses: Losses[] = [];
  private readonly listeners = new Set<() => void>();
  private shown: Shown;
  private frame: number | null = null;
  private before = 0;
  private due = 0;

  constructor(
    private readonly trainer: Trainer,
    private settings: Settings,
    at: number,
  ) {
    this.kept = [trainer.weights.slice()];
    for (let epoch = 0; epoch < at; epoch += 1) this.train();
    this.shown = { epoch: at, trained: at, playing: false, weights: this.kept.at(-1) as Float32Array, losses: this.losses };
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  snapshot = (): Shown => this.shown;

  /** Takes effect with the next batch, also while it plays. */
  configure(settings: Settings): void {
    this.settings = settings;
  }

  play(): void {
    if (this.frame !== null) return;
    this.before = performance.now();
    this.due = 1;
    this.show({ playing: true, epoch: this.losses.length });
    this.frame = requestAnimationFrame(this.tick);
  }

  pause(): void {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.frame = null;
    this.show({ playing: false });
  }

  step(): void {
    this.pause();
    this.train();
    this.show({ epoch: this.losses.length });
  }

  /** Show an earlier epoch. */
  seek(epoch: number): void {
    this.pause();
    this.show({ epoch: Math.max(0, Math.min(epoch, this.losses.length)) });
  }

  stop(): void {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.frame = null;
  }

  private readonly tick = (now: number): void => {
    this.due += (Math.max(0, Math.min(now - this.before, 250)) / 1000) * this.settings.speed;
    this.before = now;
    const started = performance.now();
    let ended = false;
    while (this.due >= 1 && !ended && performance.now() - started < FRAME_MS) {
      this.train();
      this.due -= 1;
      ended = this.losses.length % this.settings.epochs === 0;
    }
    this.due = Math.min(this.due, 2); // a slow machine shows fewer epochs a second, rather than ever more a frame
    this.frame = ended ? null : requestAnimationFrame(this.tick);
    if (ended || this.shown.trained !== this.losses.length) this.show({ epoch: this.losses.length, playing: !ended });
  };

  private train(): void {
    const { rate, batch, penalty } = this.settings;
    this.losses.push(this.trainer.pass(rate, batch, penalty));
    this.kept.push(this.trainer.weights.slice());
    if (this.kept.length > MOST_KEPT) this.kept[this.kept.length - MOST_KEPT] = new Float32Array(0);
  }

  private show(part: Partial<Shown>): void {
    const next = { ...this.shown, ...part, trained: this.losses.length };
    const kept = this.kept[next.epoch];
    // Weights that are no longer kept are those of the last epoch.
    const epoch = kept && kept.length > 0 ? next.epoch : this.losses.length;
    this.shown = { ...next, epoch, weights: this.kept[epoch] as Float32Array };
    this.listeners.forEach((listener) => listener());
  }
}
