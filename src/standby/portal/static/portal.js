// What the portal does beyond plain pages and forms: it follows the vault, shows forms over the page, tells times in
// the browser's zone. Without it every page still reads, and every link and form still works.
"use strict";
(() => {
  const EVERY = 2000;
  const live = document.querySelector("#live[data-live]");
  const dialog = document.querySelector("#dialog");
  const away = document.querySelector("#away");

  // Times.
  const local = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "medium" });
  const sameDay = (a, b) => a.toDateString() === b.toDateString();
  // How far the browser's clock is ahead of the vault's: ages are told by the vault's.
  let ahead = 0;
  const aged = (seconds) => {
    const whole = Math.max(0, Math.round(seconds));
    for (const [unit, length, smaller, part] of [["d", 86400, "h", 3600], ["h", 3600, "min", 60], ["min", 60, "s", 1]]) {
      if (whole >= length) {
        const rest = Math.floor((whole % length) / part);
        return `${Math.floor(whole / length)} ${unit}${rest ? ` ${rest} ${smaller}` : ""}`;
      }
    }
    return `${whole} s`;
  };
  const put = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const tell = () => {
    const now = new Date();
    for (const element of document.querySelectorAll("time[datetime]")) {
      const at = new Date(element.dateTime);
      if ("age" in element.dataset) put(element, aged((now - ahead - at) / 1000));
      else put(element, sameDay(at, now) ? clock.format(at) : local.format(at));
    }
  };
  tell();
  setInterval(tell, 1000);

  // Following the vault: the part of the page that may change is asked for again, and only its differences are put in.
  let tag = "";
  let lost = null;
  let seen = 0;
  let asking = false;
  const heard = (answer) => {
    const date = Date.parse(answer.headers.get("Date"));
    if (date && Math.abs(Date.now() - date) > 3000) ahead = Date.now() - date;
    lost = null;
    away.hidden = true;
  };
  const follow = async () => {
    if (asking || document.hidden) return;
    asking = true;
    const where = location.href;
    try {
      const headers = { "X-Live": "1" };
      if (tag) headers["If-None-Match"] = tag;
      const answer = await fetch(where, { headers, cache: "no-store", redirect: "manual" });
      if (answer.status === 401) { location.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`; return; }
      if (answer.status === 304) { heard(answer); return; }
      if (!answer.ok) throw new Error(`the vault answered ${answer.status}`);
      const text = await answer.text();
      heard(answer);
      if (where !== location.href) return;
      tag = answer.headers.get("ETag") || "";
      const open = [...live.querySelectorAll("details[open][id]")].map((one) => one.id);
      await htmx.swap({ sourceElement: live, target: live, text, swap: "innerMorph", transition: false });
      for (const id of open) { const one = document.getElementById(id); if (one) one.open = true; }
      tell();
      seen += 1;
      live.dataset.live = String(seen);
      document.dispatchEvent(new Event("standby:followed"));
    } catch (error) {
      lost = lost || new Date();
      away.textContent = `The vault has not answered since ${clock.format(lost)}: this page shows what was known then. Replication goes on without the vault.`;
      away.hidden = false;
    } finally {
      asking = false;
    }
  };
  if (live && window.htmx) {
    setInterval(follow, EVERY);
    document.addEventListener("visibilitychange", follow);
  }

  // Filters take effect while one types.
  const filter = document.querySelector("form[data-filter]");
  if (filter && live && window.htmx) {
    let timer = 0;
    const apply = () => {
      const chosen = new URLSearchParams([...new FormData(filter)].filter(([, value]) => value));
      history.replaceState(null, "", `${filter.action}${[...chosen].length ? `?${chosen}` : ""}`);
      tag = "";
      follow();
    };
    filter.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 250); });
    filter.addEventListener("submit", (event) => { event.preventDefault(); clearTimeout(timer); apply(); });
  }

  // Forms over the page. The browser keeps the focus inside, closes on Escape and gives the focus back.
  const body = document.querySelector("#dialog-body");
  const show = async (href) => {
    const answer = await fetch(href, { headers: { "HX-Request": "true" }, redirect: "manual" });
    if (answer.status === 401) { location.href = "/login"; return; }
    const text = await answer.text();
    await htmx.swap({ sourceElement: body, target: body, text, swap: "innerHTML", transition: false });
    if (!dialog.open) dialog.showModal();
    const first = body.querySelector("input:not([type=hidden]), select, a.button, button");
    if (first) first.focus();
    tell();
  };
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-dialog]");
    if (link && window.htmx && !event.ctrlKey && !event.metaKey && !event.shiftKey && event.button === 0) {
      event.preventDefault();
      const menu = link.closest("details");
      if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
      show(link.href).catch(() => { location.href = link.href; });
      return;
    }
    if (event.target.closest("[data-close]") && dialog.open) {
      event.preventDefault();
      dialog.close();
      return;
    }
    const copy = event.target.closest("[data-copy]");
    if (copy) {
      navigator.clipboard.writeText(document.querySelector(copy.dataset.copy).textContent)
        .then(() => { copy.textContent = "Copied"; }, () => { copy.textContent = "Select it and copy"; });
    }
    for (const menu of document.querySelectorAll("details.menu[open]")) {
      if (!menu.contains(event.target)) menu.open = false;
    }
  });
  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && event.target.closest && event.target.closest("details.menu[open]");
    if (menu) { menu.open = false; menu.querySelector("summary").focus(); }
  });
  document.addEventListener("submit", (event) => {
    // A file is the answer: the page stays, and shows soon that it was made.
    if (event.target.matches("form[data-plain]") && dialog.open) setTimeout(() => dialog.close(), 0);
  });
  dialog.addEventListener("close", () => {
    const reload = body.querySelector("[data-reload]");
    body.replaceChildren();
    if (reload) location.reload();
  });

  // A link from another site brings no cookie (SameSite=Strict); from here it is sent.
  const login = document.querySelector("[data-login]");
  if (login) {
    fetch("/login/session").then((answer) => answer.json()).then((told) => {
      if (told.session) location.replace(login.dataset.login);
    }).catch(() => {});
  }
})();
