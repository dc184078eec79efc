package router

import (
	"context"
	"sync"

	"google.golang.org/grpc/codes"

	"github.com/csi-hostpath/csi-hostpath/pkg/request"
	"github.com/csi-hostpath/csi-hostpath/pkg/rpc"
)

// maxRemembered bounds the volumes whose node is remembered in memory.
const maxRemembered = 10_000

// memory remembers on which nodes volumes without a claim are made, as csi-sanity makes them.
type memory struct {
	mu    sync.Mutex
	nodes map[string]string // by the volume's name
	order []string          // the names, the oldest first
}

func newMemory() *memory { return &memory{nodes: map[string]string{}} }

func (m *memory) node(name string) (node string, known bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	node, known = m.nodes[name]
	return node, known
}

// record remembers a node unless there is one. It forgets the oldest when there are too many.
func (m *memory) record(name, node string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if recorded, ok := m.nodes[name]; ok {
		return recorded
	}
	if len(m.order) >= maxRemembered {
		delete(m.nodes, m.order[0])
		m.order = m.order[1:]
	}
	m.nodes[name] = node
	m.order = append(m.order, name)
	return node
}

func (m *memory) forget(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.nodes, name) // the name in order goes in its turn
}

// volumeRecord is where one volume's node is recorded.
type volumeRecord struct {
	recorder Recorder // nil: memory
	claim    Claim
	memory   *memory
	name     string
}

func (r *Router) recorderFor(create request.Create) volumeRecord {
	claim := Claim{create.Params.Owner.Namespace, create.Params.Owner.Claim}
	v := volumeRecord{memory: r.memory, name: create.Volume.Name.String(), claim: claim}
	if claim.Namespace != "" && claim.Name != "" {
		v.recorder = r.opts.Recorder
	}
	return v
}

// known is what memory has.
func (v volumeRecord) known() (node string, known bool) {
	if v.recorder != nil {
		return "", false
	}
	return v.memory.node(v.name)
}

func (v volumeRecord) record(ctx context.Context, node string) (string, error) {
	if v.recorder != nil {
		return v.recorder.Record(ctx, v.claim, node)
	}
	return v.memory.record(v.name, node), nil
}

// ended lets the next call choose again if the node had no room. Of a claim the provisioner does
// that: it removes the annotation.
func (v volumeRecord) ended(err error) {
	if rpc.Code(err) == codes.ResourceExhausted {
		v.memory.forget(v.name)
	}
}
