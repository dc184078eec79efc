package status

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"
)

// get asks a handler as a browser does that has reached it by a port-forward.
func get(t *testing.T, h http.Handler, page string) (int, string, http.Header) {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, page, nil)
	r.Host = "localhost:9821"
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(body), w.Result().Header
}

// urls of everything that is shown.
func pageURLs() []string {
	return []string{
		"/", "/nodes/node-a", "/nodes/node-c", "/volumes", "/volumes/0123456789ab-pvc-3f0c",
		"/volumes/0123456789ab-h-0", "/volumes/0123456789ab-damaged", "/snapshots", "/trash", "/copies",
	}
}

func TestAPIAnswersEachResource(t *testing.T) {
	h := NewHandler(&fake{})
	for path, want := range map[string]string{
		"overview": `"nodesLinked":2`, "nodes": `"name":"node-c"`, "pools": `"reason":"disk_failed"`,
		"volumes": `"name":"orders-db-0"`, "volumes/0123456789ab-pvc-3f0c": `"use":[{`,
		"snapshots": `"heldBytes":9663676416`, "trash": `"leftSeconds":187200`,
		"copies": `"copiedFiles":80211`,
	} {
		code, body, header := get(t, h, Path+path)
		if code != http.StatusOK || !strings.Contains(body, want) || !json.Valid([]byte(body)) {
			t.Errorf("%s: %d, without %s: %s", path, code, want, body)
		}
		if header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %v", path, header)
		}
	}
}

func TestAPIPassesTheQueryAndSaysWhatIsWrongWithIt(t *testing.T) {
	f := &fake{}
	h := NewHandler(f)
	get(t, h, Path+"volumes?node=n&pool=p&namespace=ns&volume=v&after=a&limit=7")
	want := Query{Node: "n", Pool: "p", Namespace: "ns", Volume: "v", After: "a", Limit: 7}
	if f.asked != want {
		t.Errorf("%+v, want %+v", f.asked, want)
	}
	// The next of a fleet, with the longest name of a node.
	after := strings.Repeat("n", 253) + "/" + strings.Repeat("x", 256)
	get(t, h, Path+"volumes?after="+url.QueryEscape(after))
	if f.asked.After != after {
		t.Errorf("after %q", f.asked.After)
	}
	get(t, h, Path+"volumes")
	if f.asked.Limit != DefaultLimit {
		t.Errorf("limit %d", f.asked.Limit)
	}
	for query, want := range map[string]string{
		"limit=0": "limit", "limit=501": "limit", "limit=x": "limit", "node=a&node=b": "node",
		"after=" + strings.Repeat("x", 513): "after",
	} {
		code, body, _ := get(t, h, Path+"volumes?"+query)
		if code != http.StatusBadRequest || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", query, code, body)
		}
	}
}

func TestFailuresHaveACodeAndAText(t *testing.T) {
	f := &fake{}
	h := NewHandler(f)
	for _, page := range []string{
		Path, Path + "x", Path + "volumes/absent", "/volumes/absent", "/nodes/absent", "/x",
	} {
		code, body, _ := get(t, h, page)
		if code != http.StatusNotFound && code != http.StatusMovedPermanently {
			t.Errorf("%s: %d %s", page, code, body)
		}
	}
	f.err = errors.New("no disk answers")
	for _, page := range []string{Path + "volumes", "/volumes", "/"} {
		code, body, _ := get(t, h, page)
		if code != http.StatusServiceUnavailable || !strings.Contains(body, "no disk answers") {
			t.Errorf("%s: %d %s", page, code, body)
		}
	}
}

func TestAnswerThatJSONCannotHoldIsAFailure(t *testing.T) {
	w := httptest.NewRecorder()
	write(w, http.StatusOK, Volume{Created: time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC)})
	var failure Error
	err := json.Unmarshal(w.Body.Bytes(), &failure)
	if w.Code != http.StatusInternalServerError || err != nil || failure.Error == "" {
		t.Errorf("%d %q, %v", w.Code, w.Body, err)
	}
}

// A page of a stranger reaches a loopback address by a name of its own (DNS rebinding).
func TestOnlyLoopbackHostsAreAnswered(t *testing.T) {
	h := NewHandler(&fake{})
	for host, want := range map[string]int{
		"localhost": 200, "localhost:8080": 200, "LOCALHOST:1": 200, "127.0.0.1:80": 200,
		"127.8.9.1": 200, "[::1]:80": 200, "[::1]": 200,
		"": 421, "example.com": 421, "example.com:80": 421, "localhost.example.com": 421,
		"10.0.0.1:80": 421, "0.0.0.0": 421, "127.0.0.1.example.com": 421, "[::]": 421,
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", nil)
		r.Host = host
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("%q: %d, want %d", host, w.Code, want)
		}
	}
}

func TestNothingButGetIsAnswered(t *testing.T) {
	h := NewHandler(&fake{})
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"} {
		for _, page := range []string{"/", Path + "volumes"} {
			r := httptest.NewRequestWithContext(t.Context(), method, page, nil)
			r.Host = "localhost"
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
				t.Errorf("%s %s: %d %v", method, page, w.Code, w.Header())
			}
		}
	}
}

func TestEveryAnswerHasTheHeadersThatBindABrowser(t *testing.T) {
	h := NewHandler(&fake{})
	others := []string{"/style.css", "/refresh.js", "/icon.svg", "/x", Path + "pools"}
	for _, page := range append(pageURLs(), others...) {
		_, _, header := get(t, h, page)
		csp := header.Get("Content-Security-Policy")
		if !strings.HasPrefix(csp, "default-src 'none';") || strings.Contains(csp, "unsafe") ||
			!strings.Contains(csp, "frame-ancestors 'none'") {
			t.Errorf("%s: %q", page, csp)
		}
		for name, want := range map[string]string{
			"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store",
			"Referrer-Policy": "no-referrer", "Cross-Origin-Resource-Policy": "same-origin",
		} {
			if header.Get(name) != want {
				t.Errorf("%s: %s is %q", page, name, header.Get(name))
			}
		}
	}
}

// Names are whatever a user of the cluster has chosen.
func TestHostileNamesArePrintedAsText(t *testing.T) {
	h := NewHandler(&fake{})
	seen := 0
	for _, page := range pageURLs() {
		code, body, _ := get(t, h, page)
		if code != http.StatusOK {
			t.Errorf("%s: %d %s", page, code, body)
		}
		for _, bad := range []string{"<script>alert", "<img", "onerror=alert(2)>"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s has %s", page, bad)
			}
		}
		seen += strings.Count(body, "&lt;script&gt;")
	}
	if seen < 10 {
		t.Errorf("the hostile name is on the pages %d times: the test does not test them", seen)
	}
}

// The policy refuses them: a page must not need them.
func TestPagesHaveNoInlineScriptNorStyle(t *testing.T) {
	h := NewHandler(&fake{})
	inline := regexp.MustCompile(`(?i)\sstyle=|<style|\son[a-z]+=|javascript:|<script>|https?://`)
	for _, page := range pageURLs() {
		_, body, _ := get(t, h, page)
		body = strings.ReplaceAll(body, "onerror=alert(2)", "") // of the hostile name, as text
		if found := inline.FindString(body); found != "" {
			t.Errorf("%s has %q", page, found)
		}
	}
}

func TestPagesTurn(t *testing.T) {
	h := NewHandler(&fake{})
	_, body, _ := get(t, h, "/volumes?limit=3&namespace=a%26b")
	if !strings.Contains(body, `href="?after=next&#43;part&amp;limit=3&amp;namespace=a%26b"`) &&
		!strings.Contains(body, `href="?after=next+part&amp;limit=3&amp;namespace=a%26b"`) {
		t.Errorf("no link to the next part: %s", body)
	}
	_, body, _ = get(t, h, "/volumes?limit=3&after=x")
	if !strings.Contains(body, `href="?limit=3"`) {
		t.Error("no link to the first part")
	}
}
