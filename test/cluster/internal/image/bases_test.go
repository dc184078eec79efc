package image

import (
	"slices"
	"testing"
)

func TestBasesOfADockerfile(t *testing.T) {
	dockerfile := `# FROM comment:1
ARG GO_IMAGE=golang:1.26-bookworm
ARG BASE_IMAGE=debian:bookworm-slim
FROM --platform=$BUILDPLATFORM ${GO_IMAGE} AS build
ARG BASE_IMAGE=alpine:3
RUN true
from docker.io/library/debian:bookworm-slim as tools
FROM $BASE_IMAGE
COPY --from=build /a /a
FROM tools
FROM scratch
`
	want := []base{
		{reference: "golang:1.26-bookworm", suite: "bookworm", withGo: true},
		{reference: "debian:bookworm-slim", suite: "bookworm"},
		{reference: "debian:bookworm-slim", suite: "bookworm"},
	}
	got, err := parseBases(dockerfile)
	if err != nil || !slices.Equal(got, want) {
		t.Fatalf("parseBases = %v, %v, want %v", got, err, want)
	}
}

func TestBaseWithoutADefaultIsRefused(t *testing.T) {
	if got, err := parseBases("ARG BASE_IMAGE\nFROM ${BASE_IMAGE}\nFROM ${OTHER}\n"); err == nil {
		t.Errorf("parseBases = %v", got)
	}
}

func TestBasesThatCannotBeMadeAreRefused(t *testing.T) {
	for _, reference := range []string{"alpine:3", "debian", "debian:latest", "golang:1.26-alpine", "debian:${SUITE}", "debian@sha256:0"} {
		if got, err := parseBase(reference); err == nil {
			t.Errorf("%s was taken for %v", reference, got)
		}
	}
}

func TestGoImageNeedsThatGo(t *testing.T) {
	tests := []struct {
		reference, machine string
		fits               bool
	}{
		{"golang:1.26", "go1.26.8", true},
		{"golang:1.26.8-bookworm", "go1.26.8", true},
		{"golang:1.2", "go1.26.8", false},
		{"golang:1.27", "go1.26.8", false},
	}
	for _, test := range tests {
		if err := (base{reference: test.reference}).checkGo(test.machine); (err == nil) != test.fits {
			t.Errorf("%s on %s: %v, want it to fit: %t", test.reference, test.machine, err, test.fits)
		}
	}
}
