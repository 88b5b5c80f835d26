/** A new random id. `crypto.randomUUID` is there only over https and on this machine; random bytes are there always. */
export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
