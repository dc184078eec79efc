package kube

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"

	authentication "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
)

const (
	audience = "csi-hostpath-controller"
	nodeUser = "system:serviceaccount:csi:node"
	secret   = "a.secret.token"
)

// reviewing returns an authenticator whose API server answers with a status.
func reviewing(status authentication.TokenReviewStatus, err error) *Authenticator {
	client := fake.NewClientset()
	client.PrependReactor("create", "tokenreviews",
		func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, &authentication.TokenReview{Status: status}, err
		})
	return NewAuthenticator(client, audience, "csi", "node")
}

// good is the review of a token that proves node-1.
func good() authentication.TokenReviewStatus {
	return authentication.TokenReviewStatus{
		Authenticated: true,
		Audiences:     []string{audience},
		User: authentication.UserInfo{
			Username: nodeUser,
			Extra: map[string]authentication.ExtraValue{
				extraPodName:  {"csi-hostpath-abcde"},
				extraNodeName: {"node-1"},
			},
		},
	}
}

func TestReviewThatProvesANodeGivesItsName(t *testing.T) {
	node, err := reviewing(good(), nil).NodeOf(t.Context(), secret)
	if err != nil || node != "node-1" {
		t.Errorf("%q, %v", node, err)
	}
}

func TestReviewThatProvesNoNodeIsRefusedWithTheReason(t *testing.T) {
	for want, change := range map[string]func(*authentication.TokenReviewStatus){
		"refuses it: token has expired": func(s *authentication.TokenReviewStatus) {
			s.Authenticated, s.Error = false, "token has expired"
		},
		"refuses it": func(s *authentication.TokenReviewStatus) { s.Authenticated = false },
		"could not check it: webhook": func(s *authentication.TokenReviewStatus) {
			s.Error = "webhook"
		},
		// A reviewer that does not know audiences says nothing about them.
		`for the audiences [], not for "csi-hostpath-controller"`: func(
			s *authentication.TokenReviewStatus,
		) {
			s.Audiences = nil
		},
		`for the audiences ["other"]`: func(s *authentication.TokenReviewStatus) {
			s.Audiences = []string{"other"}
		},
		`of "system:serviceaccount:other:node"`: func(s *authentication.TokenReviewStatus) {
			s.User.Username = "system:serviceaccount:other:node"
		},
		"not bound to a pod": func(s *authentication.TokenReviewStatus) {
			delete(s.User.Extra, extraPodName)
		},
		"needs Kubernetes 1.30": func(s *authentication.TokenReviewStatus) {
			delete(s.User.Extra, extraNodeName)
		},
		"on which node": func(s *authentication.TokenReviewStatus) {
			s.User.Extra[extraNodeName] = []string{"node-1", "node-2"}
		},
	} {
		status := good()
		change(&status)
		node, err := reviewing(status, nil).NodeOf(t.Context(), secret)
		if node != "" || !errors.Is(err, ErrNotANode) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q, %v: want %s", node, err, want)
		}
	}
}

// Whoever reaches the port of the link may cause these errors, and reads them.
func TestErrorOfAReviewTellsNothingOfTheTokenAndTheAPIServer(t *testing.T) {
	for _, failure := range []error{
		context.DeadlineExceeded,
		&url.Error{Op: "Post", URL: "https://10.96.0.1/apis", Err: context.DeadlineExceeded},
	} {
		_, err := reviewing(authentication.TokenReviewStatus{}, failure).NodeOf(t.Context(), secret)
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrNotANode) ||
			strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "10.96.0.1") {
			t.Errorf("%v", err)
		}
	}
	status := authentication.TokenReviewStatus{Error: strings.Repeat("x", 1<<20)}
	_, err := reviewing(status, nil).NodeOf(t.Context(), secret)
	if len(err.Error()) > 2*maxReasonBytes {
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

func TestEmptyTokenIsNotReviewed(t *testing.T) {
	_, err := reviewing(good(), nil).NodeOf(t.Context(), "")
	if !errors.Is(err, ErrNotANode) {
		t.Errorf("%v", err)
	}
}
