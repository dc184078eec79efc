package reach

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// serve makes an API whose list of volumes has these parts.
func serve(t *testing.T, part func(after string) status.List[status.Volume]) API {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := json.NewEncoder(w).Encode(part(r.URL.Query().Get(status.ParamAfter))); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return API{Client: server.Client(), Base: server.URL}
}

func TestAListThatDoesNotEndIsRefused(t *testing.T) {
	for name, next := range map[string]func(after string) string{
		"the same": func(string) string { return "a" },
		"alternating": func(after string) string {
			if after == "a" {
				return "b"
			}
			return "a"
		},
		"always another": func(after string) string {
			n, _ := strconv.Atoi(after)
			return strconv.Itoa(n + 1)
		},
	} {
		api := serve(t, func(after string) status.List[status.Volume] {
			return status.List[status.Volume]{Next: next(after)}
		})
		_, _, err := List[status.Volume](t.Context(), api, "volumes", nil)
		if err == nil || !strings.Contains(err.Error(), "does not end") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPartsWithoutItemsAreNoEndAndAMissingNodeIsSaidOnce(t *testing.T) {
	api := serve(t, func(after string) status.List[status.Volume] {
		list := status.List[status.Volume]{Missing: []status.Missing{
			{Node: "a", Reason: "no link"}, {Node: "b", Pool: "p" + after, Reason: "not open"},
		}}
		switch after {
		case "":
			list.Next = "1"
		case "1":
			list.Next, list.Items = "2", []status.Volume{{ID: "x"}}
		case "2":
			list.Items = []status.Volume{{ID: "y"}}
		}
		return list
	})
	items, missing, err := List[status.Volume](t.Context(), api, "volumes", nil)
	if err != nil || len(items) != 2 || len(missing) != 4 {
		t.Errorf("%v, %v, %v", items, missing, err)
	}
}
