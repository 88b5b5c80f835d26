/** The page's way to the learner: a worker, or the page itself where none can be started. */

import { Learner, type Answer, type Begin, type Order, type Train } from "./learner";

type Listener = (answer: Answer) => void;

let worker: Worker | null = null; // one for as long as the page is open
let failed = false;
let listener: Listener | null = null;
let ids = 0;

function start(onFailure: () => void): Worker | null {
  if (failed) return null;
  if (!worker) {
    worker = new Worker(new URL("./learner.worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<Answer>) => listener?.(data);
  }
  worker.onerror = () => {
    // Its file is gone after an upgrade, or the browser has no workers of this kind.
    failed = true;
    worker?.terminate();
    worker = null;
    onFailure();
  };
  return worker;
}

/** One network's learner. Only the newest is listened to. */
export class LearnerThread {
  private readonly id = (ids += 1);
  private pending: Train | null = null;
  private inPage: Learner | null = null;

  constructor(
    private readonly begin: Begin,
    private readonly answered: Listener,
  ) {
    this.send({ ...begin, id: this.id });
  }

  train(order: Omit<Train, "kind" | "id">): void {
    this.pending = { ...order, kind: "train", id: this.id };
    this.send(this.pending);
  }

  close(): void {
    if (listener === this.receive) listener = null;
  }

  private readonly receive: Listener = (answer) => {
    if (answer.id !== this.id) return;
    this.pending = null;
    this.answered(answer);
  };

  private send(order: Order): void {
    const thread = this.inPage ? null : start(() => this.carryOn());
    listener = this.receive;
    if (thread) thread.postMessage(order);
    else if (this.inPage) this.answerHere(order);
    else this.carryOn();
  }

  /** Train in the page, from the beginning: a worker that cannot be started has trained nothing. */
  private carryOn(): void {
    this.inPage = new Learner();
    this.inPage.obey({ ...this.begin, id: this.id });
    if (this.pending) this.answerHere(this.pending);
  }

  private answerHere(order: Order): void {
    const learner = this.inPage;
    setTimeout(() => {
      const answer = learner?.obey(order);
      if (answer) listener?.(answer);
    });
  }
}
