import type { ReactNode } from "react";
import { Button as AriaButton, Dialog, DialogTrigger, Popover } from "react-aria-components";

/** A button that opens a small panel. */
export function Menu({ title, children }: { title: string; children: ReactNode }) {
  return (
    <DialogTrigger>
      <AriaButton className="button">{title} ▾</AriaButton>
      <Popover className="menu" placement="bottom end">
        <Dialog className="stack tight" aria-label={title}>
          {children}
        </Dialog>
      </Popover>
    </DialogTrigger>
  );
}
