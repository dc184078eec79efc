// Books is a small HTTP server that keeps a list of books as files, to show what
// becomes of an application's data when its container crashes.
//
//	GET /, GET /book   the books
//	POST /book         store {"title": string, "publishedAt": string}
//	PATCH /error       crash
package main

import (
	"context"
	"errors"
	"flag"
	"log"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	address := flag.String("address", ":8080", "address to listen on")
	folder := flag.String("folder", "/var/www/book", "folder that holds the books")
	flag.Parse()
	if err := run(*address, *folder); err != nil {
		log.Fatalf("books: %v", err)
	}
}

func run(address, folder string) error {
	shelf, err := openShelf(folder)
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr:              address,
		Handler:           newHandler(shelf, crash),
		ReadHeaderTimeout: 5 * time.Second,
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	go func() {
		<-ctx.Done()
		// The signal ended ctx; what is being answered may still be finished.
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	}()
	log.Printf("listening on %s, books in %s", address, folder)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// crash ends the process the way a bug would: without a goodbye to anybody.
func crash() {
	log.Print("crashing, as PATCH /error asks")
	os.Exit(1)
}
