package main

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Book is what a file holds.
type Book struct {
	Title       string `json:"title"`
	PublishedAt string `json:"publishedAt"`
}

// suffix tells finished books from what a crash left half written.
const suffix = ".json"

// shelf keeps each book as one file of a folder. The files are the only state:
// what another process puts there, such as a pod that shares the volume, is seen.
type shelf struct {
	folder string
}

func openShelf(folder string) (*shelf, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, fmt.Errorf("open the shelf: %w (is the volume mounted, and writable for this user?)",
			err)
	}
	return &shelf{folder: folder}, nil
}

// add returns once the book is durable: it survives a crash of the process, and of
// the machine.
func (s *shelf) add(book Book) error {
	data, err := json.Marshal(book)
	if err != nil {
		return err
	}
	// The name has nothing of the request: a title may be any text.
	name := rand.Text()
	file, err := os.OpenFile(filepath.Join(s.folder, name+".tmp"), os.O_CREATE|os.O_EXCL|os.O_WRONLY,
		0o644)
	if err != nil {
		return fmt.Errorf("store a book: %w", err)
	}
	if err := finish(file, data, filepath.Join(s.folder, name+suffix)); err != nil {
		return errors.Join(fmt.Errorf("store a book: %w", err), remove(file.Name()))
	}
	return nil
}

// finish writes the file and gives it its name only when its content is on the disk.
func finish(file *os.File, data []byte, name string) error {
	_, err := file.Write(append(data, '\n'))
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

// syncFolder makes a rename durable (fsync(2)).
func syncFolder(path string) error {
	folder, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// list returns all books, by title. A file that holds no book is left out, so that
// it hides no others.
func (s *shelf) list() ([]Book, error) {
	entries, err := os.ReadDir(s.folder)
	if err != nil {
		return nil, fmt.Errorf("list the books: %w", err)
	}
	books := []Book{}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), suffix) {
			continue
		}
		book, err := read(filepath.Join(s.folder, entry.Name()))
		if err != nil {
			log.Printf("skipping %s: %v", entry.Name(), err)
			continue
		}
		books = append(books, book)
	}
	sort.SliceStable(books, func(i, j int) bool { return books[i].Title < books[j].Title })
	return books, nil
}

func read(path string) (Book, error) {
	var book Book
	data, err := os.ReadFile(path)
	if err != nil {
		return book, err
	}
	return book, json.Unmarshal(data, &book)
}
