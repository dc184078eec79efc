//go:build browser

package status

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// browser is a Chromium that chromedriver drives (W3C WebDriver, and its endpoint for the DevTools
// protocol).
type browser struct {
	t       *testing.T
	driver  string // URL of chromedriver
	session string // URL of the session
}

// newBrowser starts Debian's chromium.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	const port = "9515"
	cmd := exec.CommandContext(t.Context(), "chromedriver", "--port="+port)
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v: install the packages chromium and chromium-driver", err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	b := &browser{t: t, driver: "http://127.0.0.1:" + port}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if resp, err := http.Get(b.driver + "/status"); err == nil {
			resp.Body.Close()
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("chromedriver does not answer")
		}
	}
	var made struct {
		SessionID string `json:"sessionId"`
	}
	b.call(b.driver+"/session", map[string]any{"capabilities": map[string]any{
		"alwaysMatch": map[string]any{
			"goog:loggingPrefs": map[string]string{"browser": "ALL"},
			"goog:chromeOptions": map[string]any{"args": []string{
				"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
				"--disable-background-networking", "--disable-component-update", "--disable-sync",
				"--hide-scrollbars", "--user-data-dir=" + t.TempDir(),
			}},
		},
	}}, &made)
	b.session = b.driver + "/session/" + made.SessionID
	t.Cleanup(func() {
		req, _ := http.NewRequest(http.MethodDelete, b.session, nil)
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	return b
}

// call sends a command, and decodes its value.
func (b *browser) call(url string, command, value any) {
	b.t.Helper()
	body, err := json.Marshal(command)
	if err != nil {
		b.t.Fatal(err)
	}
	b.decode(url, value)(http.Post(url, "application/json", bytes.NewReader(body)))
}

// decode takes the answer of chromedriver, which wraps the value.
func (b *browser) decode(url string, value any) func(*http.Response, error) {
	b.t.Helper()
	return func(resp *http.Response, err error) {
		b.t.Helper()
		if err != nil {
			b.t.Fatal(err)
		}
		defer resp.Body.Close()
		var answer struct {
			Value json.RawMessage `json:"value"`
		}
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			b.t.Fatal(err)
		}
		if resp.StatusCode != http.StatusOK {
			b.t.Fatalf("%s: %s", url, answer.Value)
		}
		if value == nil {
			return
		}
		if err := json.Unmarshal(answer.Value, value); err != nil {
			b.t.Fatalf("%s: %v in %s", url, err, answer.Value)
		}
	}
}

// devtools sends a command of the DevTools protocol.
func (b *browser) devtools(method string, parameters, value any) {
	b.t.Helper()
	b.call(b.session+"/goog/cdp/execute", map[string]any{"cmd": method, "params": parameters}, value)
}

// device is a screen.
type device struct {
	name          string
	width, height int
}

// show loads a page as a device and a colour scheme show it.
func (b *browser) show(url string, d device, scheme string) {
	b.t.Helper()
	b.devtools("Emulation.setDeviceMetricsOverride", map[string]any{
		"width": d.width, "height": d.height, "deviceScaleFactor": 1, "mobile": d.name == "phone",
	}, nil)
	b.devtools("Emulation.setEmulatedMedia", map[string]any{
		"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}},
	}, nil)
	b.call(b.session+"/url", map[string]string{"url": url}, nil)
}

// messages are those of the console: what the policy refuses, scripts that fail.
func (b *browser) messages() []string {
	b.t.Helper()
	var entries []struct {
		Message string `json:"message"`
	}
	b.call(b.session+"/se/log", map[string]string{"type": "browser"}, &entries)
	var texts []string
	for _, e := range entries {
		texts = append(texts, e.Message)
	}
	return texts
}

// faults of the page, as a script finds them.
func (b *browser) faults() (faults []string) {
	b.t.Helper()
	script := map[string]any{"script": lookForFaults, "args": []any{}}
	b.call(b.session+"/execute/sync", script, &faults)
	return faults
}

// lookForFaults checks what WCAG 2.2 (AA) says of contrast (1.4.3), reflow (1.4.10), headings
// (1.3.1), languages (3.1.1), tables and labels.
const lookForFaults = `
const faults = [];
if (!document.documentElement.lang) faults.push("no lang");
if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
if (!document.querySelector("main")) faults.push("no main");
let level = 0;
for (const h of document.querySelectorAll("h1,h2,h3,h4")) {
  const own = Number(h.tagName[1]);
  if (own > level + 1) faults.push("heading " + h.textContent + " skips a level");
  level = own;
}
for (const th of document.querySelectorAll("th")) if (!th.scope) faults.push("th without scope");
for (const svg of document.querySelectorAll("svg")) {
  const named = svg.getAttribute("role") === "img" && svg.getAttribute("aria-label");
  if (!named) faults.push("svg without a name");
}
const wide = document.documentElement.scrollWidth;
if (wide > innerWidth) faults.push("the page is " + wide + " wide, the screen " + innerWidth);
const parse = c => c.match(/[\d.]+/g).map(Number);
const part = v => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
const light = c => 0.2126 * part(c[0]) + 0.7152 * part(c[1]) + 0.0722 * part(c[2]);
const back = e => {
  for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c;
  }
  return [255, 255, 255];
};
let compared = 0;
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  if (!own || e.closest("svg") || !e.checkVisibility()) continue;
  const a = light(parse(getComputedStyle(e).color)), b = light(back(e));
  const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  compared++;
  if (ratio < 4.5) faults.push(e.tagName + "." + e.className + " has contrast " + ratio.toFixed(2));
}
if (compared < 10) faults.push("only " + compared + " texts were compared");
const style = getComputedStyle(document.querySelector(".brand"));
if (style.fontWeight !== "700") faults.push("the style sheet was not used");
return [...new Set(faults)];
`

// axName is a text in the accessibility tree.
type axName struct {
	Value string `json:"value"`
}

// unnamed are the images, links and fields that have no name in the accessibility tree.
func (b *browser) unnamed() (roles []string) {
	b.t.Helper()
	var tree struct {
		Nodes []struct {
			Ignored bool   `json:"ignored"`
			Role    axName `json:"role"`
			Name    axName `json:"name"`
		} `json:"nodes"`
	}
	b.devtools("Accessibility.getFullAXTree", map[string]any{}, &tree)
	if len(tree.Nodes) < 20 {
		b.t.Errorf("the accessibility tree has %d nodes", len(tree.Nodes))
	}
	for _, n := range tree.Nodes {
		switch n.Role.Value {
		case "image", "img", "link", "button", "textbox", "heading", "region", "navigation":
			if !n.Ignored && strings.TrimSpace(n.Name.Value) == "" {
				roles = append(roles, n.Role.Value)
			}
		}
	}
	return roles
}

func (b *browser) screenshot(file string) {
	b.t.Helper()
	var text string
	b.decode("screenshot", &text)(http.Get(b.session + "/screenshot"))
	content, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = os.WriteFile(file, content, 0o644)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestPagesInABrowser(t *testing.T) {
	server := httptest.NewServer(NewHandler(&fake{}))
	defer server.Close()
	b := newBrowser(t)
	out := os.Getenv("SCREENSHOTS")
	if out == "" {
		out = t.TempDir()
	}
	for _, d := range []device{{"desk", 1280, 800}, {"phone", 390, 844}} {
		for _, scheme := range []string{"light", "dark"} {
			for i, url := range append(pageURLs(), "/absent") {
				name := fmt.Sprintf("%02d-%s-%s", i, d.name, scheme)
				b.show(server.URL+url, d, scheme)
				for _, fault := range b.faults() {
					t.Errorf("%s (%s, %s): %s", url, d.name, scheme, fault)
				}
				for _, role := range b.unnamed() {
					t.Errorf("%s (%s): a %s has no name", url, d.name, role)
				}
				for _, message := range b.messages() {
					if url == "/absent" && strings.Contains(message, "404") {
						continue
					}
					t.Errorf("%s (%s, %s): the console says %s", url, d.name, scheme, message)
				}
				b.screenshot(filepath.Join(out, name+".png"))
			}
		}
	}
}

func TestPageRefreshesInABrowserWithoutAReload(t *testing.T) {
	server := httptest.NewServer(NewHandler(&fake{}))
	defer server.Close()
	b := newBrowser(t)
	b.show(server.URL+"/", device{"desk", 1280, 800}, "light")
	var refreshed bool
	b.call(b.session+"/execute/async", map[string]any{"args": []any{}, "script": `
const done = arguments[0], before = document.getElementById("main");
window.unchanged = true;
refresh().then(() => {
  const after = document.getElementById("main");
  done(before !== after && after.querySelector("h1").textContent === "Pools" && window.unchanged);
});`}, &refreshed)
	if !refreshed {
		t.Error("the content was not replaced")
	}
	if messages := b.messages(); len(messages) != 0 {
		t.Errorf("the console says %v", messages)
	}
}
