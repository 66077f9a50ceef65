// Times in the reader's own form, and a new page body every two seconds while the page is looked at.
const times = () => document.querySelectorAll(".time").forEach((cell) => {
  const ms = Number(cell.dataset.ms);
  if (ms) cell.textContent = new Date(ms).toISOString().replace("T", " ").replace("Z", "");
});
times();
setInterval(async () => {
  if (document.hidden) return;
  const stale = document.getElementById("stale");
  try {
    const answer = await fetch("/", { headers: { accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.querySelector("main").replaceWith(fresh.querySelector("main"));
    times();
    stale.hidden = true;
  } catch {
    stale.hidden = false;
  }
}, 2000);
