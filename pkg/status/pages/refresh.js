// Replaces the content of the page every 30 seconds, unless somebody is typing or has selected text.
"use strict";
async function refresh() {
  const main = document.getElementById("main");
  if (document.hidden || !getSelection().isCollapsed || main.contains(document.activeElement)) return;
  try {
    const answer = await fetch(location.href, {cache: "no-store"});
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    const next = fresh.getElementById("main");
    if (next) main.replaceWith(document.adoptNode(next));
  } catch {
    // The port-forward has ended, or the pod: the next try may succeed.
  }
}
setInterval(refresh, 30000);
