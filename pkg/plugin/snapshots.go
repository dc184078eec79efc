package plugin

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

// Snapshot is a VolumeSnapshot, and what the driver says of it.
type Snapshot struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	Ready     bool   `json:"ready"`
	Message   string `json:"message,omitempty"` // why it is not ready
	Claim     string `json:"claim,omitempty"`
	Content   string `json:"content,omitempty"`
	Handle    string `json:"handle,omitempty"`
	// RestoreBytes is the least size of a claim that is made of it.
	RestoreBytes int64     `json:"restoreBytes"`
	Created      time.Time `json:"created"`
	// Data is what the status API says; nil: it was not asked, or does not know the snapshot.
	Data *status.Snapshot `json:"data,omitempty"`
}

func (p *plugin) snapshotsCommand() *cobra.Command {
	var o printing
	var all bool
	cmd := &cobra.Command{
		Use:     "snapshots",
		Aliases: []string{"snapshot", "snap"},
		Short:   "VolumeSnapshots of the driver: where they are, what they hold",
		Example: "  kubectl hostpath snapshots -A",
		Args:    cobra.NoArgs,
	}
	o.register(cmd)
	allNamespaces(cmd, &all)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.showList(cmd.Context(), o, func(
			ctx context.Context, s *session,
		) (output.List, []string, error) {
			snapshots, hints, err := s.snapshots(ctx, all)
			if err != nil {
				return output.List{}, nil, err
			}
			return snapshotList(snapshots, all, p.now()), hints, nil
		})
	}
	return cmd
}

// snapshots reads the VolumeSnapshots of the driver. Without the right to read contents, nothing
// says whose driver's they are; then all are shown that the driver knows by their name.
func (s *session) snapshots(
	ctx context.Context, all bool,
) (snapshots []Snapshot, hints []string, err error) {
	namespace, err := s.namespace(all)
	if err != nil {
		return nil, nil, err
	}
	objects, err := s.Snapshots(ctx, namespace)
	if err != nil {
		return nil, nil, err
	}
	contents, err := s.SnapshotContents(ctx)
	if err != nil {
		return nil, nil, err
	}
	byName := map[string]*unstructured.Unstructured{}
	for _, c := range contents {
		byName[c.GetName()] = c
	}
	seesContents := s.MayList("volumesnapshotcontents")
	data, hints := s.snapshotData(ctx, len(objects) > 0)
	for _, o := range objects {
		v := snapshotOf(o)
		content := byName[v.Content]
		if content != nil {
			if driver, _, _ := unstructured.NestedString(content.Object, "spec", "driver"); driver !=
				s.installation.Driver {
				continue
			}
			v.Handle, _, _ = unstructured.NestedString(content.Object, "status", "snapshotHandle")
		}
		v.Data = data[v.Handle]
		if v.Handle == "" {
			v.Data = data[v.Namespace+"/"+v.Name]
		}
		if !seesContents && v.Data == nil {
			continue
		}
		snapshots = append(snapshots, v)
	}
	slices.SortFunc(snapshots, func(a, b Snapshot) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	return snapshots, append(s.NotShown(), hints...), nil
}

// snapshotData is what the driver says, by the ID, and by namespace and name.
func (s *session) snapshotData(
	ctx context.Context, wanted bool,
) (data map[string]*status.Snapshot, hints []string) {
	if !wanted {
		return nil, nil
	}
	items, missing, err := list[status.Snapshot](ctx, s, "snapshots", nil)
	if err != nil {
		return nil, []string{"node, pool and held bytes: " + err.Error()}
	}
	data = map[string]*status.Snapshot{}
	for i := range items {
		data[items[i].ID] = &items[i]
		if of := items[i].Snapshot; of != nil {
			data[of.Namespace+"/"+of.Name] = &items[i]
		}
	}
	return data, hintsOf("snapshots", missing)
}

func snapshotOf(o *unstructured.Unstructured) Snapshot {
	v := Snapshot{
		Namespace: o.GetNamespace(), Name: o.GetName(), Created: o.GetCreationTimestamp().Time,
	}
	v.Ready, _, _ = unstructured.NestedBool(o.Object, "status", "readyToUse")
	v.Message, _, _ = unstructured.NestedString(o.Object, "status", "error", "message")
	v.Claim, _, _ = unstructured.NestedString(o.Object, "spec", "source", "persistentVolumeClaimName")
	v.Content, _, _ = unstructured.NestedString(o.Object, "status", "boundVolumeSnapshotContentName")
	size, _, _ := unstructured.NestedString(o.Object, "status", "restoreSize")
	if q, err := resource.ParseQuantity(size); err == nil {
		v.RestoreBytes = q.Value()
	}
	return v
}

func snapshotList(snapshots []Snapshot, all bool, now time.Time) output.List {
	l := output.List{
		Kind: "SnapshotList", None: "No snapshots found.",
		Columns: []output.Column{
			{Name: "Snapshot"},
			{Name: "Ready"},
			{Name: "Claim"},
			{Name: "Restore Size"},
			{Name: "Held"},
			{Name: "Node"},
			{Name: "Pool"},
			{Name: "Age"},
			{Name: "Group", Wide: true},
			{Name: "Content", Wide: true},
			{Name: "ID", Wide: true},
		},
	}
	if all {
		l.Columns = slices.Insert(l.Columns, 0, output.Column{Name: "Namespace"})
	}
	for _, v := range snapshots {
		node, pool, held, group := output.Unknown, output.Unknown, output.Unknown, output.Unknown
		if d := v.Data; d != nil {
			node, pool, held, group = d.Node, d.Pool, output.Bytes(d.HeldBytes), output.Text(d.Group)
		}
		cells := []any{
			v.Name, yesNo(v.Ready), output.Text(v.Claim), output.Bytes(v.RestoreBytes), held, node, pool,
			output.Age(v.Created, now), group, output.Text(v.Content), output.Text(v.Handle),
		}
		if all {
			cells = slices.Insert(cells, 0, any(v.Namespace))
		}
		l.Rows = append(l.Rows, output.Row{
			Name: "volumesnapshot.snapshot.storage.k8s.io/" + v.Name, Cells: cells, Item: v,
		})
	}
	return l
}
