package plugin

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/csi-hostpath/csi-hostpath/pkg/plugin/output"
	"github.com/csi-hostpath/csi-hostpath/pkg/status"
)

func (p *plugin) gitCommand() *cobra.Command {
	var o printing
	var sel selection
	cmd := &cobra.Command{
		Use:   "git",
		Short: "Content of git repositories: which commit, when it was fetched, which pods",
		Long: "Content of git repositories on the nodes that pods of the namespace see. With -A also " +
			"what no pod sees any more.",
		Example: "  kubectl hostpath git\n  kubectl hostpath git -A --node node-1 -o wide",
		Args:    cobra.NoArgs,
	}
	o.register(cmd)
	sel.register(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return p.showList(cmd.Context(), o, func(
			ctx context.Context, s *session,
		) (output.List, []string, error) {
			contents, hints, err := s.gitContents(ctx, sel)
			if err != nil {
				return output.List{}, nil, err
			}
			return gitList(contents, sel.all, p.now()), hints, nil
		})
	}
	return cmd
}

// gitContents are those of the pods that the user may list. Each has only these pods.
func (s *session) gitContents(
	ctx context.Context, sel selection,
) (contents []status.Volume, hints []string, err error) {
	namespace, err := s.namespace(sel.all)
	if err != nil {
		return nil, nil, err
	}
	pods, err := s.Pods(ctx, namespace, "")
	if err != nil {
		return nil, nil, err
	}
	visible := map[string]bool{}
	for _, pod := range pods {
		visible[string(pod.UID)] = true
	}
	volumes, missing, err := list[status.Volume](ctx, s, "volumes", only(status.ParamNode, sel.node))
	if err != nil {
		return nil, nil, err
	}
	for _, v := range volumes {
		if v.Git == nil {
			continue
		}
		v.Pods = slices.DeleteFunc(v.Pods, func(p status.Pod) bool { return !visible[p.UID] })
		if sel.all || len(v.Pods) > 0 {
			contents = append(contents, v)
		}
	}
	slices.SortFunc(contents, func(a, b status.Volume) int {
		return cmp.Or(cmp.Compare(a.Git.URL, b.Git.URL), cmp.Compare(a.Git.Ref, b.Git.Ref),
			cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
	return contents, append(s.NotShown(), hintsOf("content of git", missing)...), nil
}

func gitList(contents []status.Volume, all bool, now time.Time) output.List {
	l := output.List{
		Kind: "GitContentList", None: "No content of git found.",
		Columns: []output.Column{
			{Name: "Repository"},
			{Name: "Ref"},
			{Name: "Commit"},
			{Name: "Fetched"},
			{Name: "Node"},
			{Name: "Pods"},
			{Name: "Faults"},
			{Name: "Size", Wide: true},
			{Name: "Used", Wide: true},
			{Name: "Pool", Wide: true},
			{Name: "ID", Wide: true},
		},
	}
	for _, v := range contents {
		l.Rows = append(l.Rows, gitRow(v, all, now))
	}
	return l
}

func gitRow(v status.Volume, all bool, now time.Time) output.Row {
	pods := make([]string, 0, len(v.Pods))
	for _, p := range v.Pods {
		name := cmp.Or(p.Name, p.UID)
		if all && p.Namespace != "" {
			name = p.Namespace + "/" + name
		}
		pods = append(pods, name)
	}
	return output.Row{
		Name: "gitcontent/" + v.ID,
		Cells: []any{
			v.Git.URL, output.Text(v.Git.Ref), output.Text(v.Git.ShortCommit()),
			output.Age(v.Git.Fetched, now), v.Node, output.Text(strings.Join(pods, ",")),
			output.Text(strings.Join(v.Faults, ",")), output.Bytes(v.CapacityBytes),
			output.BytesOf(v.UsedBytes), v.Pool, v.ID,
		},
		Item: v,
	}
}
