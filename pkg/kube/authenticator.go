package kube

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	authentication "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/csi-hostpath/csi-hostpath/pkg/link"
)

const (
	// reviewTimeout bounds a review of a token. The API server asks its cache and, at most, etcd.
	reviewTimeout = 10 * time.Second
	// maxReasonBytes bounds what a node is told of the API server's reason.
	maxReasonBytes = 512

	// What a review says about a token that is bound to a pod (Kubernetes 1.30 and newer,
	// ServiceAccountTokenPodNodeInfo; k8s.io/apiserver/pkg/authentication/serviceaccount).
	extraPodName  = "authentication.kubernetes.io/pod-name"
	extraNodeName = "authentication.kubernetes.io/node-name"
)

// ErrNotANode means that a token does not prove a node's name.
var ErrNotANode = errors.New("the token proves no node")

// Authenticator finds out which node a service account token belongs to, by a TokenReview. The API
// server also checks that the token's pod still exists.
type Authenticator struct {
	client   kubernetes.Interface
	audience string
	username string
}

var _ link.Authenticator = (*Authenticator)(nil)

// NewAuthenticator accepts tokens that are for the audience, of a service account, and bound to a
// pod.
func NewAuthenticator(
	client kubernetes.Interface, audience, namespace, serviceAccount string,
) *Authenticator {
	return &Authenticator{
		client:   client,
		audience: audience,
		username: "system:serviceaccount:" + namespace + ":" + serviceAccount,
	}
}

// NodeOf implements link.Authenticator. Errors: ErrNotANode, and those of the request. They have
// nothing of the token, and not the address of the API server, for any peer may cause them.
func (a *Authenticator) NodeOf(ctx context.Context, token string) (string, error) {
	if token == "" {
		return "", fmt.Errorf("%w: it is empty", ErrNotANode)
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	review, err := a.client.AuthenticationV1().TokenReviews().Create(ctx,
		&authentication.TokenReview{Spec: authentication.TokenReviewSpec{
			Token:     token,
			Audiences: []string{a.audience},
		}}, metav1.CreateOptions{})
	if err != nil {
		if request := (*url.Error)(nil); errors.As(err, &request) {
			err = request.Err // without the address
		}
		return "", fmt.Errorf("the API server cannot check the token: %w", err)
	}
	if fault := a.fault(review.Status); fault != "" {
		return "", fmt.Errorf("%w: %s", ErrNotANode, fault)
	}
	return review.Status.User.Extra[extraNodeName][0], nil
}

// fault is why a review does not prove a node; empty: it does.
func (a *Authenticator) fault(s authentication.TokenReviewStatus) string {
	switch extra := s.User.Extra; {
	case !s.Authenticated && s.Error != "":
		return "the API server refuses it: " + s.Error[:min(len(s.Error), maxReasonBytes)]
	case !s.Authenticated:
		return "the API server refuses it"
	case s.Error != "":
		return "the API server could not check it: " + s.Error[:min(len(s.Error), maxReasonBytes)]
	case !slices.Contains(s.Audiences, a.audience):
		// The API server checks audiences, but an authentication webhook may not know them. Then the
		// token may be for another service that has sent it here.
		return fmt.Sprintf("it is for the audiences %q, not for %q", s.Audiences, a.audience)
	case s.User.Username != a.username:
		return fmt.Sprintf("it is of %q, and nodes have %q", s.User.Username, a.username)
	case len(extra[extraPodName]) != 1 || extra[extraPodName][0] == "":
		return "it is not bound to a pod"
	case len(extra[extraNodeName]) != 1 || extra[extraNodeName][0] == "":
		return "the API server does not say on which node its pod is: that needs Kubernetes 1.30"
	}
	return ""
}
