package doctor

import "slices"

// Group is what several findings say alike.
type Group struct {
	Finding // the first one

	// Also has the subjects of the others. What is unknown has no subject: then it has the other
	// checks that could not be made.
	Also []string
}

// Grouped puts findings together that differ only in their subject: one fault of many nodes, or one
// lacking right of many checks. The order is that of the first ones.
func Grouped(findings []Finding) (groups []Group) {
	at := map[Finding]int{}
	for _, f := range findings {
		key, name := f, f.Subject
		key.Subject = ""
		if f.Severity == Unknown {
			key.Check, name = "", f.Check
		}
		i, known := at[key]
		if !known {
			at[key] = len(groups)
			groups = append(groups, Group{Finding: f})
			continue
		}
		g := &groups[i]
		if name != g.Subject && name != g.Check && !slices.Contains(g.Also, name) {
			g.Also = append(g.Also, name)
		}
	}
	return groups
}
