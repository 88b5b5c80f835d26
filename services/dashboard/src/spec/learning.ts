/** The playground's training as it goes on: frames, history, and what the page shows of it. */

import type { Answer, Begin } from "./learner";
import { LearnerThread } from "./learnerThread";
import { Pace } from "./pace";
import { initialWeights, type Losses, type Penalty } from "./trainer";

/** What the page shows; a new object whenever something changed. */
export interface Shown {
  /** The epoch shown; `trained` is the last one. */
  epoch: number;
  trained: number;
  playing: boolean;
  weights: Float32Array;
  /** While it plays: every unit's output on the coarse plane, one behind the other. */
  maps: Float32Array | null;
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

export class Learning {
  private readonly thread: LearnerThread;
  private readonly kept: Float32Array[];
  private readonly losses: Losses[] = [];
  private readonly listeners = new Set<() => void>();
  private shown: Shown;
  private frame: number | null = null;
  private before = 0;
  private due = 0;
  /** Epochs that are trained whether it plays or not: single steps, and those of a shared address. */
  private owed: number;
  private waiting = false;
  /** Which frames are drawn, and what the next of them shows; null if nothing has changed. */
  private pace = new Pace();
  private undrawn: Float32Array | null = null;
  /** Whether the newest epoch is shown, rather than one that was looked up. */
  private follows = true;

  constructor(
    network: Omit<Begin, "kind">,
    private settings: Settings,
    at: number,
  ) {
    const weights = network.start ? Float32Array.from(network.start) : initialWeights(network.form, network.seed);
    this.kept = [weights];
    this.shown = { epoch: 0, trained: 0, playing: false, weights, maps: null, losses: this.losses };
    this.thread = new LearnerThread({ kind: "begin", ...network }, this.receive);
    this.owed = at;
    this.goOn();
  }

  subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  snapshot = (): Shown => this.shown;

  /** Takes effect with the next epoch, also while it plays. */
  configure(settings: Settings): void {
    this.settings = settings;
  }

  play(): void {
    if (this.frame !== null) return;
    this.before = performance.now();
    this.due = 1;
    this.follows = true;
    this.pace = new Pace();
    this.show({ playing: true, epoch: this.losses.length });
    this.frame = requestAnimationFrame(this.tick);
  }

  pause(): void {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.frame = null;
    this.show({ playing: false, ...(this.follows && { epoch: this.losses.length }) });
  }

  step(): void {
    this.pause();
    this.follows = true;
    this.owed += 1;
    this.goOn();
  }

  /** Show an earlier epoch. */
  seek(epoch: number): void {
    this.pause();
    this.follows = false;
    this.show({ epoch: Math.max(0, Math.min(epoch, this.losses.length)) });
  }

  stop(): void {
    if (this.frame !== null) cancelAnimationFrame(this.frame);
    this.frame = null;
    this.owed = 0;
    this.thread.close();
  }

  private readonly tick = (now: number): void => {
    const { speed } = this.settings;
    this.due += (Math.max(0, now - this.before) / 1000) * speed;
    this.due = Math.min(this.due, 2 + speed / 10); // a slow machine shows fewer epochs a second, rather than ever more at once
    this.before = now;
    this.frame = requestAnimationFrame(this.tick);
    if (this.pace.frame(now) && this.undrawn) this.show({ epoch: this.losses.length, maps: this.undrawn });
    this.goOn();
  };

  /** Ask for the epochs that are due, one answer at a time. */
  private goOn(): void {
    const { epochs, rate, batch, penalty } = this.settings;
    const left = epochs - (this.losses.length % epochs);
    const wanted = this.owed > 0 ? this.owed : this.frame === null ? 0 : Math.min(Math.floor(this.due), left);
    if (this.waiting || wanted < 1) return;
    this.waiting = true;
    this.thread.train({ epochs: wanted, rate, batch, penalty });
  }

  private readonly receive = ({ losses, weights, maps }: Answer): void => {
    this.waiting = false;
    const size = weights.length / losses.length;
    losses.forEach((one, at) => {
      this.losses.push(one);
      this.kept.push(weights.slice(at * size, (at + 1) * size));
      if (this.kept.length > MOST_KEPT) this.kept[this.kept.length - MOST_KEPT] = new Float32Array(0);
    });
    if (this.owed > 0) this.owed = Math.max(0, this.owed - losses.length);
    else this.due -= losses.length;
    const playing = this.frame !== null;
    const diverged = !Number.isFinite(this.losses.at(-1)?.train);
    const ended = playing && (diverged || this.losses.length % this.settings.epochs === 0);
    if (diverged) this.owed = 0;
    if (ended) this.pause();
    if (playing && !ended) this.undrawn = maps;
    else this.show({ epoch: this.follows ? this.losses.length : this.shown.epoch });
    if (this.owed > 0) this.goOn();
  };

  private show(part: Partial<Shown>): void {
    this.undrawn = null;
    const next = { ...this.shown, maps: null, ...part, trained: this.losses.length };
    const kept = this.kept[next.epoch];
    // Weights that are no longer kept are those of the last epoch.
    const epoch = kept && kept.length > 0 ? next.epoch : this.losses.length;
    this.shown = { ...next, epoch, weights: this.kept[epoch] as Float32Array };
    this.listeners.forEach((listener) => listener());
  }
}
