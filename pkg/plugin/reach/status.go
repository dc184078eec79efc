package reach

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

const (
	// statusTimeout bounds one answer: the nodes that the controller asks have less.
	statusTimeout = 30 * time.Second
	// maxAnswerBytes bounds what one answer may have.
	maxAnswerBytes = 64 << 20
	// maxParts and maxEmptyParts bound a list that a hostile node makes longer and longer. A part is
	// empty if all that was searched for it belongs to others: a pool gives one for 500 volumes.
	maxParts      = 100_000
	maxEmptyParts = 10_000
)

// API is the status API of a pod.
type API struct {
	Client *http.Client
	// Base is what stands before status.Path.
	Base string
	// Node is the node for which the pod answers. Empty: the pod is the controller's, and answers for
	// all.
	Node string
}

// API is the status API behind a tunnel.
func (t *Tunnel) API() API { return API{Client: t.Client(), Base: "http://localhost"} }

// Overview is what the pod says at a glance.
func (a API) Overview(ctx context.Context) (o status.Overview, err error) {
	return o, a.get(ctx, "overview", nil, &o)
}

// Volume is a volume with its use of the last day and its snapshots. Errors: status.ErrNotFound;
// those of an answer.
func (a API) Volume(ctx context.Context, id string) (v status.Volume, err error) {
	return v, a.get(ctx, "volumes/"+url.PathEscape(id), nil, &v)
}

// List reads all parts of a list: "pools", "volumes", "snapshots", "trash", "copies" or "nodes". It
// also returns what may be absent, each node and pool once. Errors: those of an answer; the list
// does not end.
func List[T any](
	ctx context.Context, a API, resource string, query url.Values,
) (items []T, missing []status.Missing, err error) {
	q := url.Values{status.ParamLimit: {strconv.Itoa(status.MaxLimit)}}
	maps.Copy(q, query)
	seen, empty := map[string]bool{}, 0
	for {
		var part status.List[T]
		if err := a.get(ctx, resource, q, &part); err != nil {
			return nil, nil, err
		}
		items, missing = append(items, part.Items...), append(missing, part.Missing...)
		if part.Next == "" {
			return items, once(missing), nil
		}
		if seen[part.Next] {
			return nil, nil, fmt.Errorf("the list of %s does not end: %q comes again", resource, part.Next)
		}
		if len(part.Items) == 0 {
			empty++
		}
		if seen[part.Next] = true; len(seen) > maxParts || empty > maxEmptyParts {
			return nil, nil, fmt.Errorf("the list of %s does not end: it has more than %d parts, %d empty",
				resource, len(seen), empty)
		}
		missing = once(missing)
		q.Set(status.ParamAfter, part.Next)
	}
}

// once takes out what is missing again: a node without a link may be in several parts of a list.
func once(missing []status.Missing) []status.Missing {
	type key struct{ node, pool string }
	seen := make(map[key]bool, len(missing))
	return slices.DeleteFunc(missing, func(m status.Missing) bool {
		k := key{m.Node, m.Pool}
		was := seen[k]
		seen[k] = true
		return was
	})
}

func (a API) get(ctx context.Context, resource string, query url.Values, into any) error {
	body, err := a.Raw(ctx, status.Path+resource+"?"+query.Encode())
	if err != nil {
		return err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the status API's answer about %s: %w", resource, err)
	}
	return nil
}

// Raw reads a path of the pod's listener.
func (a API) Raw(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.Base+path, nil)
	if err != nil {
		return nil, err
	}
	answer, err := a.Client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask the status API: %w", err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswerBytes))
	if err != nil {
		return nil, fmt.Errorf("read the status API's answer: %w", err)
	}
	if answer.StatusCode == http.StatusOK {
		return body, nil
	}
	var failure status.Error
	said := json.Unmarshal(body, &failure) == nil && failure.Error != ""
	switch {
	case said && answer.StatusCode == http.StatusNotFound:
		return nil, fmt.Errorf("%w: %s", status.ErrNotFound,
			strings.TrimPrefix(failure.Error, status.ErrNotFound.Error()+": "))
	case said:
		return nil, errors.New(failure.Error)
	}
	return nil, fmt.Errorf("the status API answers %s to %s", answer.Status, path)
}
