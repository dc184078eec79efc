package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"time"
)

// request is what is read of an entry of the audit log (audit.k8s.io/v1 Event).
type request struct {
	Stage     string `json:"stage"`
	Verb      string `json:"verb"`
	UserAgent string `json:"userAgent"`
	User      struct {
		Username string `json:"username"`
	} `json:"user"`
	ObjectRef struct {
		Resource    string `json:"resource"`
		Subresource string `json:"subresource"`
		Name        string `json:"name"`
	} `json:"objectRef"`
	ResponseStatus struct {
		Code int `json:"code"`
	} `json:"responseStatus"`
}

// agent is the program that has sent the request.
func (r request) agent() string {
	name, _, _ := strings.Cut(r.UserAgent, "/")
	return name
}

// resource is what the request was about.
func (r request) resource() string {
	if r.ObjectRef.Subresource != "" {
		return r.ObjectRef.Resource + "/" + r.ObjectRef.Subresource
	}
	return r.ObjectRef.Resource
}

func (r request) isWrite() bool {
	switch r.Verb {
	case "create", "update", "patch", "delete", "deletecollection":
		return true
	default:
		return false
	}
}

// auditDelay is how long the API server may take to log a request that it has answered.
const auditDelay = time.Second

// audit reads the requests that have been answered since the last audit, each once. A watch counts
// when it begins.
func (f *fleet) audit(ctx context.Context) ([]request, error) {
	sleep(ctx, auditDelay)
	log, err := os.Open(f.api.AuditLog())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	if _, err := log.Seek(f.audited, io.SeekStart); err != nil {
		return nil, err
	}
	var all []request
	lines := bufio.NewReader(log)
	for {
		line, err := lines.ReadBytes('\n')
		if err == io.EOF { //nolint:errorlint // bufio returns it as it is; the rest is no whole line yet
			return all, nil
		}
		if err != nil {
			return nil, err
		}
		f.audited += int64(len(line))
		r, err := decode[request](line)
		if err != nil {
			return nil, err
		}
		if ended := "ResponseComplete"; r.Verb == "watch" == (r.Stage == ended) {
			continue
		}
		all = append(all, r)
	}
}

// benchAgent is the user agent of the bench.
const benchAgent = "fleet"

// isOurs says whether a program of the driver's deployment has sent the request: not the bench, and
// nothing of Kubernetes.
func (r request) isOurs() bool {
	switch r.agent() {
	case benchAgent, "kube-apiserver", "kube-controller-manager", "":
		return false
	default:
		return true
	}
}
