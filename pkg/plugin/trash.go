package plugin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	authorization "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

func (p *plugin) trashCommand() *cobra.Command {
	var o printing
	var node string
	cmd := &cobra.Command{
		Use:   "trash",
		Short: "Deleted volumes and snapshots whose data is still there, and for how long",
		Long: "Deleted volumes and snapshots whose data is still there, and for how long. Entries of " +
			"claims in namespaces whose claims you may not list are left out.",
		Example: "  kubectl hostpath trash\n  kubectl hostpath undelete ENTRY --claim shop/books",
		Args:    cobra.NoArgs,
	}
	o.register(cmd)
	cmd.Flags().StringVar(&node, "node", "", "only of this node")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.showList(cmd.Context(), o, func(
			ctx context.Context, s *session,
		) (output.List, []string, error) {
			entries, hints, err := s.trash(ctx, node)
			if err != nil {
				return output.List{}, nil, err
			}
			return trashList(entries, p.now()), hints, nil
		})
	}
	return cmd
}

// trash are the entries of claims that the user may list, in the order in which they go.
func (s *session) trash(
	ctx context.Context, node string,
) (entries []status.TrashEntry, hints []string, err error) {
	entries, missing, err := list[status.TrashEntry](ctx, s, "trash", only(status.ParamNode, node))
	if err != nil {
		return nil, nil, err
	}
	entries, hidden, err := s.visible(ctx, entries)
	if err != nil {
		return nil, nil, err
	}
	hints = append(s.NotShown(), hintsOf("trash", missing)...)
	if hidden > 0 {
		hints = append(hints, fmt.Sprintf(
			"%d entries of namespaces whose persistentvolumeclaims you may not list", hidden))
	}
	slices.SortStableFunc(entries, func(a, b status.TrashEntry) int {
		return cmp.Or(a.PurgedAfter.Compare(b.PurgedAfter), cmp.Compare(a.Entry, b.Entry))
	})
	return entries, hints, nil
}

// visible are the entries of claims in namespaces whose claims the user may list. An entry without
// a claim is for who may list the claims of all.
func (s *session) visible(
	ctx context.Context, entries []status.TrashEntry,
) (visible []status.TrashEntry, hidden int, err error) {
	mayList := map[string]bool{}
	may := func(namespace string) (bool, error) {
		if allowed, known := mayList[namespace]; known {
			return allowed, nil
		}
		allowed, err := s.mayListClaims(ctx, namespace)
		mayList[namespace] = allowed
		return allowed, err
	}
	for _, e := range entries {
		allowed, err := may(metav1.NamespaceAll)
		if err == nil && !allowed && e.Claim != nil {
			allowed, err = may(e.Claim.Namespace)
		}
		if err != nil {
			return nil, 0, err
		}
		if !allowed {
			hidden++
			continue
		}
		visible = append(visible, e)
	}
	return visible, hidden, nil
}

// mayListClaims asks the API server; "" is all namespaces.
func (s *session) mayListClaims(ctx context.Context, namespace string) (bool, error) {
	review, err := s.Client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx,
		&authorization.SelfSubjectAccessReview{Spec: authorization.SelfSubjectAccessReviewSpec{
			ResourceAttributes: &authorization.ResourceAttributes{
				Namespace: namespace, Verb: "list", Resource: "persistentvolumeclaims",
			},
		}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("ask what you may do: %w", err)
	}
	return review.Status.Allowed, nil
}

func trashList(entries []status.TrashEntry, now time.Time) output.List {
	l := output.List{
		Kind: "TrashEntryList", None: "The trash is empty.",
		Columns: []output.Column{
			{Name: "Entry"},
			{Name: "Claim"},
			{Name: "Size"},
			{Name: "Node"},
			{Name: "Pool"},
			{Name: "Deleted"},
			{Name: "Left"},
			{Name: "State"},
			{Name: "ID", Wide: true},
		},
	}
	for _, e := range entries {
		claim := output.None
		switch {
		case e.Claim != nil:
			claim = e.Claim.Namespace + "/" + e.Claim.Name
		case e.IsSnapshot:
			claim = "<snapshot>"
		}
		left := duration.HumanDuration(time.Duration(e.LeftSeconds) * time.Second)
		if e.State != status.Retained {
			left = output.None
		}
		l.Rows = append(l.Rows, output.Row{
			Name: "trash/" + e.Entry, Item: e,
			Cells: []any{
				e.Entry, claim, output.Bytes(e.PromisedBytes), e.Node, e.Pool,
				output.Age(e.Deleted, now), left, string(e.State), output.Text(e.ID),
			},
		})
	}
	return l
}
