package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// newServer returns a handler over a folder, and whether it was asked to crash.
func newServer(t *testing.T, folder string) (http.Handler, *bool) {
	t.Helper()
	s, err := openShelf(folder)
	if err != nil {
		t.Fatal(err)
	}
	crashed := false
	return newHandler(s, func() { crashed = true }), &crashed
}

func do(handler http.Handler, method, path, body string) *httptest.ResponseRecorder {
	recorder := httptest.NewRecorder()
	handler.ServeHTTP(recorder, httptest.NewRequest(method, path, strings.NewReader(body)))
	return recorder
}

func titles(t *testing.T, recorder *httptest.ResponseRecorder) []string {
	t.Helper()
	var books []Book
	if err := json.Unmarshal(recorder.Body.Bytes(), &books); err != nil ||
		recorder.Code != http.StatusOK {
		t.Fatalf("list: %d %s: %v", recorder.Code, recorder.Body, err)
	}
	var list []string
	for _, book := range books {
		list = append(list, book.Title)
	}
	return list
}

func TestStoredBooksAreListedAlsoAfterARestart(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "book")
	handler, _ := newServer(t, folder)
	for _, title := range []string{"Walden", "Emma", "../../etc/passwd"} {
		body, err := json.Marshal(Book{Title: title, PublishedAt: "1815"})
		if err != nil {
			t.Fatal(err)
		}
		if got := do(handler, "POST", "/book", string(body)); got.Code != http.StatusCreated {
			t.Fatalf("POST %s: %d %s", title, got.Code, got.Body)
		}
	}
	restarted, _ := newServer(t, folder)
	want := []string{"../../etc/passwd", "Emma", "Walden"}
	for _, path := range []string{"/", "/book"} {
		if got := titles(t, do(restarted, "GET", path, "")); !slices.Equal(got, want) {
			t.Errorf("GET %s = %v, want %v", path, got, want)
		}
	}
}

func TestEmptyShelfIsAnEmptyList(t *testing.T) {
	handler, _ := newServer(t, t.TempDir())
	if got := strings.TrimSpace(do(handler, "GET", "/", "").Body.String()); got != "[]" {
		t.Fatalf("GET / = %s, want []", got)
	}
}

func TestBadRequestsSayWhatIsWrong(t *testing.T) {
	long := strings.Repeat("x", maxField+1)
	tests := []struct {
		name, body, want string
		status           int
	}{
		{"no JSON", `title`, "want {", 400},
		{"a list", `[]`, "want {", 400},
		{"wrong type", `{"title": 1, "publishedAt": "1854"}`, "title", 400},
		{"no title", `{"publishedAt": "1854"}`, "title is missing", 400},
		{"blank title", `{"title": " ", "publishedAt": "1854"}`, "title is empty", 400},
		{"no date", `{"title": "Walden"}`, "publishedAt is missing", 400},
		{
			"unknown field",
			`{"title": "Walden", "publishedAt": "1854", "author": "Thoreau"}`,
			"author",
			400,
		},
		{"two books", `{"title": "a", "publishedAt": "b"}{}`, "nothing after it", 400},
		{"long title", `{"title": "` + long + `", "publishedAt": "1854"}`, "longer than", 400},
		{"large body", `{"title": "` + strings.Repeat("x", maxBody) + `"}`, "larger than", 413},
	}
	folder := t.TempDir()
	handler, _ := newServer(t, folder)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := do(handler, "POST", "/book", test.body)
			var answer map[string]string
			if err := json.Unmarshal(got.Body.Bytes(), &answer); err != nil {
				t.Fatalf("answer %s: %v", got.Body, err)
			}
			if got.Code != test.status || !strings.Contains(answer["error"], test.want) {
				t.Fatalf("%d %q, want %d with %q", got.Code, answer["error"], test.status, test.want)
			}
		})
	}
	if entries, err := os.ReadDir(folder); err != nil || len(entries) != 0 {
		t.Fatalf("refused books left %v, %v", entries, err)
	}
}

func TestHalfWrittenAndForeignFilesHideNoBook(t *testing.T) {
	folder := t.TempDir()
	handler, _ := newServer(t, folder)
	if got := do(
		handler,
		"POST",
		"/book",
		`{"title": "Emma", "publishedAt": "1815"}`,
	); got.Code != http.StatusCreated {
		t.Fatal(got.Body)
	}
	for _, name := range []string{"half.tmp", "broken.json"} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(`{"tit`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(folder, "lost+found"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got := titles(t, do(handler, "GET", "/book", "")); !slices.Equal(got, []string{"Emma"}) {
		t.Fatalf("books %v, want [Emma]", got)
	}
}

func TestPatchErrorCrashes(t *testing.T) {
	handler, crashed := newServer(t, t.TempDir())
	for _, method := range []string{"GET", "POST"} {
		do(handler, method, "/error", "")
	}
	if *crashed {
		t.Fatal("crashed without PATCH")
	}
	do(handler, "PATCH", "/error", "")
	if !*crashed {
		t.Fatal("did not crash")
	}
}

func TestFailedStoreIsAnErrorAndLeavesNothing(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "book")
	handler, _ := newServer(t, folder)
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	got := do(handler, "POST", "/book", `{"title": "Emma", "publishedAt": "1815"}`)
	if got.Code != http.StatusInternalServerError {
		t.Fatalf("%d, want 500", got.Code)
	}
}
