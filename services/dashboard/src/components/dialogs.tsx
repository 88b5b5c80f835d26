import { useState, type ReactNode } from "react";
import { Dialog, Heading, Modal, ModalOverlay, Tab, TabList, TabPanel, Tabs } from "react-aria-components";
import { useSearchParams } from "react-router";
import { useText } from "../i18n";
import { Button, ErrorView } from "./basics";

interface ConfirmProps {
  open: boolean;
  title: string;
  children: ReactNode;
  action: string;
  keep?: string; // instead of "Cancel", where that word would be ambiguous
  danger?: boolean;
  onConfirm: () => void;
  onClose: () => void;
}

/** Asks for confirmation before something is moved, stopped or revoked. */
export function Confirm({ open, title, children, action, keep, danger, onConfirm, onClose }: ConfirmProps) {
  const t = useText();
  return (
    <ModalOverlay className="overlay" isOpen={open} isDismissable onOpenChange={(next) => !next && onClose()}>
      <Modal className="modal">
        <Dialog role="alertdialog">
          <Heading slot="title">{title}</Heading>
          <div>{children}</div>
          <div className="row">
            <span className="grow" />
            <Button onPress={onClose}>{keep ?? t("cancel")}</Button>
            <Button
              tone={danger ? "danger" : "primary"}
              onPress={() => {
                onConfirm();
                onClose();
              }}
            >
              {action}
            </Button>
          </div>
        </Dialog>
      </Modal>
    </ModalOverlay>
  );
}

interface SheetProps {
  open: boolean;
  title: string;
  children: ReactNode;
  onClose: () => void;
  wide?: boolean;
}

export function Sheet({ open, title, children, onClose, wide }: SheetProps) {
  const t = useText();
  return (
    <ModalOverlay className="overlay" isOpen={open} isDismissable onOpenChange={(next) => !next && onClose()}>
      <Modal className={wide ? "modal wide" : "modal"}>
        <Dialog>
          <div className="row between">
            <Heading slot="title">{title}</Heading>
            <Button small tone="quiet" onPress={onClose}>
              {t("close")}
            </Button>
          </div>
          {children}
        </Dialog>
      </Modal>
    </ModalOverlay>
  );
}

interface FormDialogProps {
  title: string;
  /** The fields. */
  children: ReactNode;
  /** What the button that sends the form says. */
  action: string;
  /** Whether the fields can be sent. */
  ready?: boolean;
  /** Sends the form. A rejection is shown in it, and what was typed stays. */
  onSubmit: () => Promise<unknown>;
  onClose: () => void;
  /** Buttons beside it. */
  beside?: ReactNode;
  /** Shown below the buttons, such as what a rehearsal found. */
  below?: ReactNode;
  wide?: boolean;
}

/** A dialog with one form: its fields, the server's refusal beside them, Cancel and one button that sends it once. */
export function FormDialog({ title, children, action, ready = true, onSubmit, onClose, beside, below, wide }: FormDialogProps) {
  const t = useText();
  const [error, setError] = useState<unknown>(null);
  const [busy, setBusy] = useState(false);
  const send = () => {
    if (!ready || busy) return;
    setBusy(true);
    setError(null);
    onSubmit()
      .catch(setError)
      .finally(() => setBusy(false));
  };
  return (
    <Sheet open title={title} onClose={onClose} {...(wide && { wide })}>
      <form
        className="stack"
        onSubmit={(event) => {
          event.preventDefault();
          send();
        }}
      >
        {children}
        {error !== null && <ErrorView error={error} />}
        <div className="row tight">
          <span className="grow" />
          <Button onPress={onClose}>{t("cancel")}</Button>
          {beside}
          <Button type="submit" tone="primary" disabled={!ready || busy}>
            {action}
          </Button>
        </div>
        {below}
      </form>
    </Sheet>
  );
}

export interface TabSpec {
  id: string;
  title: ReactNode;
  content: () => ReactNode;
}

/** Tabs whose selection is in the address, so it can be shared. */
export function AddressTabs({ tabs, label, name = "tab" }: { tabs: readonly TabSpec[]; label: string; name?: string }) {
  const [query, setQuery] = useSearchParams();
  const first = tabs[0]?.id ?? "";
  const wanted = query.get(name) ?? first;
  const chosen = tabs.some((tab) => tab.id === wanted) ? wanted : first;
  return (
    <Tabs
      className="tabs"
      selectedKey={chosen}
      onSelectionChange={(key) =>
        setQuery(
          (old) => {
            const next = new URLSearchParams(old);
            if (key === first) next.delete(name);
            else next.set(name, String(key));
            return next;
          },
          { replace: true },
        )
      }
    >
      <TabList aria-label={label} className="tablist">
        {tabs.map((tab) => (
          <Tab key={tab.id} id={tab.id} className="tab">
            {tab.title}
          </Tab>
        ))}
      </TabList>
      {tabs.map((tab) => (
        <TabPanel key={tab.id} id={tab.id} className="tabpanel">
          {tab.content()}
        </TabPanel>
      ))}
    </Tabs>
  );
}
