package status

import (
	"bytes"
	"context"
	"embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

//go:embed pages
var files embed.FS

// pages shows a source to people. html/template escapes what it prints: names are hostile.
type pages struct {
	source    Source
	templates *template.Template
}

func newPages(source Source) *pages {
	t := template.New("").Funcs(template.FuncMap{
		"size": formatSize, "optionalSize": formatOptionalSize, "growth": formatGrowth,
		"stamp": formatTime, "machine": func(t time.Time) string { return t.Format(time.RFC3339) },
		"span": formatSpan, "since": func(t time.Time) string { return formatSpan(time.Since(t)) },
		"seconds":  func(s int64) time.Duration { return time.Duration(s) * time.Second },
		"object":   formatObject,
		"usedPart": usedPart, "volumePart": volumePart, "copyPart": copyPart,
		"chart": newChart, "poolFaults": formatFaults, "words": formatWords,
		"at":   func(parts ...string) string { return "/" + escapePath(parts) },
		"join": strings.Join,
	})
	return &pages{source, template.Must(t.ParseFS(files, "pages/*.html"))}
}

func escapePath(parts []string) string {
	escaped := make([]string, 0, len(parts))
	for _, p := range parts {
		escaped = append(escaped, url.PathEscape(p))
	}
	return strings.Join(escaped, "/")
}

func (p *pages) register(mux *http.ServeMux) {
	mux.HandleFunc("/{$}", p.show("map.html", p.fleet))
	mux.HandleFunc("/nodes/{node}", p.show("node.html", p.node))
	mux.HandleFunc("/volumes", p.show("volumes.html", p.volumes))
	mux.HandleFunc("/volumes/{id}", p.show("volume.html", p.volume))
	mux.HandleFunc("/snapshots", p.show("snapshots.html", p.snapshots))
	mux.HandleFunc("/trash", p.show("trash.html", p.trash))
	mux.HandleFunc("/copies", p.show("copies.html", p.copies))
	mux.HandleFunc("/", p.show("error.html", func(*http.Request, *page) error {
		return fmt.Errorf("%w: there is no such page", ErrNotFound)
	}))
	for name, kind := range map[string]string{
		"style.css": "text/css; charset=utf-8", "refresh.js": "text/javascript; charset=utf-8",
		"icon.svg": "image/svg+xml",
	} {
		mux.HandleFunc("/"+name, func(w http.ResponseWriter, _ *http.Request) {
			content, _ := files.ReadFile("pages/" + name)
			w.Header().Set("Content-Type", kind)
			_, _ = w.Write(content) // when the client has gone, nothing can be done
		})
	}
}

// page is what a template shows.
type page struct {
	Title, Section string
	Query          Query
	Overview       Overview
	Now            time.Time
	Next           string // the link to the next part; empty: there is none
	First          string // the link to the first part; empty: this is the first
	Missing        []Missing
	Error          string

	Groups    []nodeGroup
	Node      *Node
	Pools     []Pool
	Volumes   []Volume
	Volume    *Volume
	Snapshots []Snapshot
	Trash     []TrashEntry
	Copies    []Copy
}

// nodeGroup is a node on the map.
type nodeGroup struct {
	Name  string
	Pools []Pool
}

// show renders a page whole before it sends any of it.
func (p *pages) show(name string, fill func(*http.Request, *page) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		content := &page{Now: time.Now().UTC()}
		code := http.StatusOK
		q, err := parseQuery(r.URL.Query())
		if err == nil {
			content.Query = q
			content.Overview, err = p.source.Overview(r.Context())
		}
		if err == nil {
			err = fill(r, content)
		}
		if err != nil {
			code, name = codeOf(err), "error.html"
			content.Title, content.Error = http.StatusText(code), explain(err)
		}
		var body bytes.Buffer
		if err := p.templates.ExecuteTemplate(&body, name, content); err != nil {
			http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.WriteHeader(code)
		_, _ = w.Write(body.Bytes()) // when the client has gone, nothing can be done
	}
}

func explain(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return "Disks or nodes have not answered within " + answerTimeout.String() + "."
	}
	return err.Error()
}

// turn sets the links to other parts of a list.
func turn[T any](r *http.Request, c *page, l List[T]) []T {
	c.Missing = append(c.Missing, l.Missing...)
	values := r.URL.Query()
	if values.Has(ParamAfter) {
		values.Del(ParamAfter)
		c.First = "?" + values.Encode()
	}
	if l.Next != "" {
		values.Set(ParamAfter, l.Next)
		c.Next = "?" + values.Encode()
	}
	return l.Items
}

func (p *pages) fleet(r *http.Request, c *page) error {
	c.Title, c.Section = "Pools", "map"
	l, err := p.source.Pools(r.Context(), c.Query)
	if err != nil {
		return err
	}
	for _, pool := range turn(r, c, l) {
		i := slices.IndexFunc(c.Groups, func(g nodeGroup) bool { return g.Name == pool.Node })
		if i < 0 {
			i = len(c.Groups)
			c.Groups = append(c.Groups, nodeGroup{Name: pool.Node})
		}
		c.Groups[i].Pools = append(c.Groups[i].Pools, pool)
	}
	return nil
}

func (p *pages) node(r *http.Request, c *page) error {
	name := r.PathValue("node")
	c.Title, c.Section = "Node "+name, "map"
	nodes, err := p.source.Nodes(r.Context(), Query{Node: name, Limit: 1})
	if err != nil {
		return err
	}
	if len(nodes.Items) == 0 {
		return fmt.Errorf("%w: no node %q is linked or should be", ErrNotFound, name)
	}
	c.Node = &nodes.Items[0]
	pools, err := p.source.Pools(r.Context(), Query{Node: name, Limit: MaxLimit})
	if err != nil {
		return err
	}
	c.Pools, c.Missing = pools.Items, pools.Missing
	q := c.Query
	q.Node = name
	volumes, err := p.source.Volumes(r.Context(), q)
	if err != nil {
		return err
	}
	c.Missing = nil // of both lists it is the same
	c.Volumes = turn(r, c, volumes)
	return nil
}

func (p *pages) volumes(r *http.Request, c *page) error {
	c.Title, c.Section = "Volumes", "volumes"
	l, err := p.source.Volumes(r.Context(), c.Query)
	c.Volumes = turn(r, c, l)
	return err
}

func (p *pages) volume(r *http.Request, c *page) error {
	c.Section = "volumes"
	v, err := p.source.Volume(r.Context(), r.PathValue("id"))
	c.Title, c.Volume = "Volume "+v.ID, &v
	return err
}

func (p *pages) snapshots(r *http.Request, c *page) error {
	c.Title, c.Section = "Snapshots", "snapshots"
	l, err := p.source.Snapshots(r.Context(), c.Query)
	c.Snapshots = turn(r, c, l)
	return err
}

func (p *pages) trash(r *http.Request, c *page) error {
	c.Title, c.Section = "Trash", "trash"
	l, err := p.source.Trash(r.Context(), c.Query)
	c.Trash = turn(r, c, l)
	return err
}

func (p *pages) copies(r *http.Request, c *page) error {
	c.Title, c.Section = "Copies", "copies"
	l, err := p.source.Copies(r.Context(), c.Query)
	c.Copies = turn(r, c, l)
	return err
}
