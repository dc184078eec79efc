package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"unicode/utf8"
)

// Limits of a request: a book is small.
const (
	maxBody  = 64 << 10
	maxField = 1024
)

// newHandler serves the shelf; crash is called by PATCH /error.
func newHandler(s *shelf, crash func()) http.Handler {
	mux := http.NewServeMux()
	list := func(w http.ResponseWriter, _ *http.Request) { listBooks(w, s) }
	mux.HandleFunc("GET /{$}", list)
	mux.HandleFunc("GET /book", list)
	mux.HandleFunc("POST /book", func(w http.ResponseWriter, r *http.Request) { addBook(w, r, s) })
	mux.HandleFunc("PATCH /error", func(http.ResponseWriter, *http.Request) { crash() })
	return mux
}

func listBooks(w http.ResponseWriter, s *shelf) {
	books, err := s.list()
	if err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	answer(w, http.StatusOK, books)
}

func addBook(w http.ResponseWriter, r *http.Request, s *shelf) {
	book, err := parseBook(http.MaxBytesReader(w, r.Body, maxBody))
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		fail(w, http.StatusRequestEntityTooLarge,
			fmt.Errorf("the request is larger than %d bytes", tooLarge.Limit))
		return
	}
	if err != nil {
		fail(w, http.StatusBadRequest, err)
		return
	}
	if err := s.add(book); err != nil {
		fail(w, http.StatusInternalServerError, err)
		return
	}
	answer(w, http.StatusCreated, book)
}

// parseBook accepts exactly one object with exactly the two fields.
func parseBook(body io.Reader) (Book, error) {
	var input struct {
		Title       *string `json:"title"`
		PublishedAt *string `json:"publishedAt"`
	}
	decoder := json.NewDecoder(body)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&input); err != nil {
		return Book{}, fmt.Errorf(`want {"title": string, "publishedAt": string}: %w`, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Book{}, errors.New("want one JSON object and nothing after it")
	}
	err := errors.Join(checkField("title", input.Title), checkField("publishedAt", input.PublishedAt))
	if err != nil {
		return Book{}, err
	}
	return Book{Title: *input.Title, PublishedAt: *input.PublishedAt}, nil
}

func checkField(name string, value *string) error {
	switch {
	case value == nil:
		return fmt.Errorf("%s is missing", name)
	case strings.TrimSpace(*value) == "":
		return fmt.Errorf("%s is empty", name)
	case utf8.RuneCountInString(*value) > maxField:
		return fmt.Errorf("%s is longer than %d characters", name, maxField)
	}
	return nil
}

func fail(w http.ResponseWriter, status int, err error) {
	answer(w, status, map[string]string{"error": err.Error()})
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(body); err != nil {
		log.Printf("answer: %v", err)
	}
}
