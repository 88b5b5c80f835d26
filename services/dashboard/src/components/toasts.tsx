import { useSyncExternalStore } from "react";
import { useText } from "../i18n";
import { Button, ErrorView, Notice } from "./basics";

interface Toast {
  id: number;
  text: string | null;
  error: unknown;
}

let toasts: readonly Toast[] = [];
let counter = 0;
const listeners = new Set<() => void>();

function change(next: readonly Toast[]): void {
  toasts = next;
  listeners.forEach((listener) => listener());
}

function show(toast: Omit<Toast, "id">, milliseconds: number): void {
  counter += 1;
  const id = counter;
  change([...toasts.slice(-3), { ...toast, id }]);
  setTimeout(() => change(toasts.filter((one) => one.id !== id)), milliseconds);
}

/** Show a confirmation. */
export const showMessage = (text: string): void => show({ text, error: null }, 4000);
/** Show an error, with its fix. */
export const showError = (error: unknown): void => show({ text: null, error }, 9000);

const subscribe = (listener: () => void): (() => void) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};

export function Toasts() {
  const t = useText();
  const shown = useSyncExternalStore(subscribe, () => toasts);
  return (
    <div className="toasts" aria-live="polite">
      {shown.toReversed().map((toast) => (
        <div key={toast.id} className="toast">
          {toast.text === null ? <ErrorView error={toast.error} /> : <Notice tone="good">{toast.text}</Notice>}
          {toast.text === null && (
            <Button small tone="quiet" onPress={() => change(toasts.filter((one) => one.id !== toast.id))}>
              {t("close")}
            </Button>
          )}
        </div>
      ))}
    </div>
  );
}
