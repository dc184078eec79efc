package status

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	// answerTimeout bounds how long a request waits for disks and nodes.
	answerTimeout = 10 * time.Second
	// maxParamBytes is more than any name, ID or Next has. A Next of a fleet begins with the name of a
	// node, of at most 253 bytes.
	maxParamBytes = 512
)

// NewHandler serves the API and the pages of a source. It answers only requests that GET something
// from a loopback address or localhost, whatever name the browser has resolved to that address: a
// page of a stranger must not read it by DNS rebinding. The caller listens on a loopback address
// only, and bounds connections and times.
func NewHandler(source Source) http.Handler {
	mux := http.NewServeMux()
	api := api{source}
	mux.HandleFunc(Path+"overview", answer(api.overview))
	mux.HandleFunc(Path+"nodes", answer(listing(source.Nodes)))
	mux.HandleFunc(Path+"pools", answer(listing(source.Pools)))
	mux.HandleFunc(Path+"volumes", answer(listing(source.Volumes)))
	mux.HandleFunc(Path+"volumes/{id}", answer(api.volume))
	mux.HandleFunc(Path+"snapshots", answer(listing(source.Snapshots)))
	mux.HandleFunc(Path+"trash", answer(listing(source.Trash)))
	mux.HandleFunc(Path+"copies", answer(listing(source.Copies)))
	mux.HandleFunc(Path, answer(func(*http.Request) (any, error) {
		return nil, fmt.Errorf("%w: the API has no such resource", ErrNotFound)
	}))
	newPages(source).register(mux)
	return guard(mux)
}

// guard refuses what no person asks for, and says in the header what a browser may do with an
// answer: no script but the page's own, nothing from elsewhere, no frame, no memory on a disk.
func guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src 'self'; "+
			"script-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "+
			"frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		switch {
		case !isLoopback(r.Host):
			fail(w, http.StatusMisdirectedRequest, fmt.Sprintf(
				"the request is for the host %q: ask for localhost or a loopback address", r.Host))
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			h.Set("Allow", "GET, HEAD")
			fail(w, http.StatusMethodNotAllowed, "nothing can be changed here: only GET is answered")
		default:
			ctx, stop := context.WithTimeout(r.Context(), answerTimeout)
			defer stop()
			next.ServeHTTP(w, r.WithContext(ctx))
		}
	})
}

// isLoopback says whether a Host header names this machine and nothing else.
func isLoopback(host string) bool {
	name := host
	if h, _, err := net.SplitHostPort(host); err == nil {
		name = h
	}
	name = strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if strings.EqualFold(name, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.IsLoopback()
}

// api answers for what is no list.
type api struct{ source Source }

func (a api) overview(r *http.Request) (any, error) { return a.source.Overview(r.Context()) }

func (a api) volume(r *http.Request) (any, error) {
	return a.source.Volume(r.Context(), r.PathValue("id"))
}

func listing[T any](
	list func(context.Context, Query) (List[T], error),
) func(*http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		q, err := parseQuery(r.URL.Query())
		if err != nil {
			return nil, err
		}
		l, err := list(r.Context(), q)
		if l.Items == nil {
			l.Items = []T{} // [] in JSON, not null
		}
		return l, err
	}
}

// parseQuery reads the parameters of a list. Errors: ErrInvalid.
func parseQuery(values url.Values) (Query, error) {
	for name, value := range values {
		if len(value) != 1 || len(value[0]) > maxParamBytes {
			return Query{}, fmt.Errorf("%w: parameter %q: give one of at most %d bytes", ErrInvalid, name,
				maxParamBytes)
		}
	}
	q := Query{
		Node: values.Get(ParamNode), Pool: values.Get(ParamPool),
		Namespace: values.Get(ParamNamespace), Volume: values.Get(ParamVolume),
		After: values.Get(ParamAfter), Limit: DefaultLimit,
	}
	if text := values.Get(ParamLimit); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > MaxLimit {
			return q, fmt.Errorf("%w: limit is %q: want 1 to %d", ErrInvalid, text, MaxLimit)
		}
		q.Limit = n
	}
	return q, nil
}

// answer writes JSON.
func answer(get func(*http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := get(r)
		if err != nil {
			fail(w, codeOf(err), err.Error())
			return
		}
		write(w, http.StatusOK, body)
	}
}

func codeOf(err error) int {
	switch {
	case errors.Is(err, ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, ErrInvalid):
		return http.StatusBadRequest
	}
	return http.StatusServiceUnavailable
}

func fail(w http.ResponseWriter, code int, text string) { write(w, code, Error{Error: text}) }

func write(w http.ResponseWriter, code int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // a time beyond the year 9999
		code, text = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_, _ = w.Write(append(text, '\n')) // when the client has gone, nothing can be done
}
