/** A thread for the playground's learning. */

import { Learner, type Order } from "./learner";

const learner = new Learner();

self.onmessage = ({ data }: MessageEvent<Order>) => {
  const answer = learner.obey(data);
  if (answer) self.postMessage(answer, { transfer: [answer.weights.buffer, answer.maps.buffer] });
};
