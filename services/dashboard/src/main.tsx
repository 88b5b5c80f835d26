import { QueryCache, QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { BrowserRouter } from "react-router";
import { ApiError } from "./api/client";
import { App } from "./app";
import { takeKey } from "./api/session";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/layout.css";
import "./styles/controls.css";
import "./styles/charts.css";
import "./styles/pages.css";
import "./styles/play.css";
import "./styles/runs.css";

const RELOAD_PAUSE_MS = 10_000;

// After an upgrade the server has other files than an open page knows: load the new ones, once for each failure.
window.addEventListener("vite:preloadError", (event) => {
  const now = Date.now();
  if (now - Number(sessionStorage.getItem("reloaded") ?? 0) < RELOAD_PAUSE_MS) return;
  sessionStorage.setItem("reloaded", String(now));
  event.preventDefault();
  window.location.reload();
});

const key = takeKey(window.location, window.history);
const queries = new QueryClient({
  queryCache: new QueryCache({
    // The key expired or was revoked: asking for the session again shows the sign-in page.
    onError: (error, query) => {
      if (error instanceof ApiError && error.status === 401 && query.queryKey[0] !== "session") void queries.invalidateQueries({ queryKey: ["session"] });
    },
  }),
  defaultOptions: {
    queries: {
      staleTime: 2_000,
      gcTime: 60_000,
      retry: (count, error) => count < 2 && (!(error instanceof ApiError) || error.status === 0 || error.status === 503),
    },
  },
});

const root = document.getElementById("root");
if (root) {
  createRoot(root).render(
    <StrictMode>
      <QueryClientProvider client={queries}>
        {/* Without transitions, a control whose value is in the address updates at once. */}
        <BrowserRouter useTransitions={false}>
          <App offeredKey={key} />
        </BrowserRouter>
      </QueryClientProvider>
    </StrictMode>,
  );
}
