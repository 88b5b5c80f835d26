import { useEffect, useState, type ReactNode } from "react";
import { Button as AriaButton, Dialog, DialogTrigger, Popover } from "react-aria-components";

/** A button that opens a small panel. */
export function Menu({ title, children }: { title: string; children: ReactNode | ((close: () => void) => ReactNode) }) {
  const [open, setOpen] = useState(false);
  useEffect(() => {
    if (!open) return undefined;
    // On the document: what had the focus may be gone, such as the button of a view that was removed.
    const leave = (event: KeyboardEvent) => event.key === "Escape" && setOpen(false);
    document.addEventListener("keydown", leave);
    return () => document.removeEventListener("keydown", leave);
  }, [open]);
  return (
    <DialogTrigger isOpen={open} onOpenChange={setOpen}>
      <AriaButton className="button">{title} ▾</AriaButton>
      <Popover className="menu" placement="bottom end">
        <Dialog className="stack tight" aria-label={title}>
          {typeof children === "function" ? children(() => setOpen(false)) : children}
        </Dialog>
      </Popover>
    </DialogTrigger>
  );
}
