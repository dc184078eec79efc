package controllerserver

import "sync"

// maxReported bounds the memory of reportedOnce. A cluster has a few classes.
const maxReported = 100

// reportedOnce remembers what has been logged, because the provisioner asks for the room of each
// class every minute. The zero value is ready.
type reportedOnce struct {
	mu    sync.Mutex
	names map[string]bool
}

// isFirst reports whether a name is to be logged.
func (r *reportedOnce) isFirst(name string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names[name] || len(r.names) >= maxReported {
		return false
	}
	if r.names == nil {
		r.names = map[string]bool{}
	}
	r.names[name] = true
	return true
}
