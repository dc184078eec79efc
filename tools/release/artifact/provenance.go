package artifact

import (
	"encoding/json"
	"runtime"
	"strings"

	"github.com/csi-hostpath/csi-hostpath/tools/release/debian"
)

// statement is an in-toto statement with SLSA's provenance: https://slsa.dev/spec/v1.0/provenance
type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     provenance `json:"predicate"`
}

type resource struct {
	Name   string            `json:"name,omitempty"`
	URI    string            `json:"uri,omitempty"`
	Digest map[string]string `json:"digest,omitempty"`
}

type provenance struct {
	BuildDefinition struct {
		BuildType            string            `json:"buildType"`
		ExternalParameters   map[string]string `json:"externalParameters"`
		InternalParameters   map[string]any    `json:"internalParameters"`
		ResolvedDependencies []resource        `json:"resolvedDependencies"`
	} `json:"buildDefinition"`
	RunDetails struct {
		Builder  map[string]string `json:"builder"`
		Metadata map[string]string `json:"metadata,omitempty"`
	} `json:"runDetails"`
}

// Builder says who builds.
type Builder struct {
	ID         string // an address that says what is trusted
	Invocation string // the address of this run; empty by hand
	Repository string // of the image, in the chart
}

// Provenance says of each subject (its name and its SHA-256 in hexadecimal) from what it was built.
func (s Source) Provenance(subjects []Subject, lock debian.Lock, builder Builder) ([]byte, error) {
	made := statement{
		Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1",
	}
	for _, subject := range subjects {
		made.Subject = append(made.Subject, resource{
			Name: subject.Name, Digest: map[string]string{"sha256": subject.SHA256},
		})
	}
	definition := &made.Predicate.BuildDefinition
	definition.BuildType = Home + "/blob/main/docs/releases.md#make-a-release"
	definition.ExternalParameters = map[string]string{
		"source": "git+" + Home, "version": s.Version, "imageRepository": builder.Repository,
	}
	definition.InternalParameters = map[string]any{
		"goVersion": strings.TrimPrefix(runtime.Version(), "go"), "sourceDateEpoch": s.Time.Unix(),
	}
	definition.ResolvedDependencies = []resource{
		{URI: "git+" + Home, Digest: map[string]string{"gitCommit": s.Commit}},
	}
	for _, pkg := range lock.Packages {
		definition.ResolvedDependencies = append(definition.ResolvedDependencies, resource{
			URI: lock.URL(pkg), Digest: map[string]string{"sha256": pkg.SHA256},
		})
	}
	made.Predicate.RunDetails.Builder = map[string]string{"id": builder.ID}
	if builder.Invocation != "" {
		made.Predicate.RunDetails.Metadata = map[string]string{"invocationId": builder.Invocation}
	}
	content, err := json.MarshalIndent(made, "", " ")
	return append(content, '\n'), err
}
