package volume

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestMessagesQuoteNoPasswordOfAURL(t *testing.T) {
	for url, want := range map[string]string{
		"https://u:hunter2@h/x":         `"https://…@h/x"`,
		"https://hunter2@h/x":           `"https://…@h/x"`,
		"u:hunter2@h:x":                 `"…@h:x"`,
		"https://u:hun@ter2@h/x":        `"https://…@h/x"`,
		"https://h/x?token=hunter2":     `"https://h/x?…"`,
		"https://h/x?hunter2=a@b://c@d": `"https://h/x?…"`,
		"https://h/":                    `"https://h/"`,
	} {
		_, err := ParseParameters(map[string]string{ParamSource: "git", ParamURL: url})
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "unter2") {
			t.Errorf("%s: %v, want %s", url, err, want)
		}
	}
}

func TestURLThatCouldMeanTwoThingsIsRefused(t *testing.T) {
	for _, s := range []string{
		"", "git.example.com/a", "git@git.example.com:team/site", "file:///etc", "ext::sh", "git://h/a",
		"https://user@h/a", "https://user:pw@h/a", "ssh://git:pw@h/a", "ssh://-o@h/a", "https://h",
		"https://h/", "https://h/a/", "https://h/a//b", "https://h/a/../b", "https://h/./b",
		"https://h/a/..;/b", "https://h/a;x/b",
		"https://h/a%2fb", "https://h/%2e%2e/b", "https://h/a?x", "https://h/a#x", `https://h/a\b`,
		"https://h:/a", "https://h:0/a", "https://h:65536/a", "https://127.1/a", "https://0x7f000001/a",
		"https://h./a", "https://-h/a", "https://h/a b", "https://h/é", "https:/h/a", "https:h/a",
		"https://h/.git", "https://h/a/..git", "https://[fe80::1%25eth0]/a",
	} {
		if u, err := ParseGitURL(s); err == nil {
			t.Errorf("%q is taken as %s", s, u)
		}
	}
	for s, want := range map[string]string{
		"https://Git.Example.com:443/Team/site.git": "https://git.example.com/Team/site.git",
		"HTTPS://h/a":           "https://h/a",
		"ssh://git@h:22/a":      "ssh://git@h/a",
		"ssh://git@h:2222/~u/a": "ssh://git@h:2222/~u/a",
		"http://h:80/a":         "http://h/a",
		"https://10.0.0.1/a":    "https://10.0.0.1/a",
		"https://[::1]:8443/a":  "https://[::1]:8443/a",
	} {
		if u, err := ParseGitURL(s); err != nil || u.String() != want {
			t.Errorf("%q is %s, %v, want %s", s, u, err, want)
		}
	}
}

func TestPrefixCoversWholeSegmentsOnly(t *testing.T) {
	for _, tc := range []struct {
		prefix, url string
		want        bool
	}{
		{"https://h/team/", "https://h/team/site", true},
		{"https://h/team/", "https://h/teams/site", false},
		{"https://h/team/", "https://h/team", false},
		{"https://h/team/site", "https://h/team/site", true},
		{"https://h/team/site", "https://h/team/site2", false},
		{"https://h/team/site", "https://h/team/site/x", false},
		{"https://h/", "https://h/x", true},
		{"https://h/", "https://h.evil/x", false},
		{"https://h/", "https://h:8443/x", false},
		{"https://h/", "http://h/x", false},
		{"https://h/", "ssh://git@h/x", false},
		{"ssh://h/", "ssh://git@h/x", true},
	} {
		prefix, err := ParseGitPrefix(tc.prefix)
		if err != nil {
			t.Fatal(err)
		}
		url, err := ParseGitURL(tc.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := prefix.Covers(url); got != tc.want {
			t.Errorf("%s covers %s: %v, want %v", tc.prefix, tc.url, got, tc.want)
		}
	}
	for _, s := range []string{"ssh://git@h/", "https://h", "https://h/a/../", "h/"} {
		if _, err := ParseGitPrefix(s); err == nil {
			t.Errorf("the prefix %q is taken", s)
		}
	}
}

func TestClassWithContentOfGitIsAReference(t *testing.T) {
	class := map[string]string{ParamSource: "git", ParamURL: "https://h/team/site.git", ParamPeriod: "5m"}
	p, err := ParseParameters(class)
	if err != nil {
		t.Fatal(err)
	}
	if p.Git.Ref != "HEAD" || p.Git.Depth != 1 || p.Git.Period != 5*time.Minute {
		t.Errorf("%+v", p.Git)
	}
	name, _ := ParseName("pvc-1")
	id := p.ReferenceID(name)
	parse := func(string) (int64, error) { return 1 << 20, nil }
	a, err := ParseAttributes(p.ReferenceAttributes(class, 1<<20), parse)
	if err != nil || a.Git.SizeBytes != 1<<20 || !IsReferenceID(id) || a.CheckReference(id) != nil {
		t.Errorf("%+v, %v", a.Git, err)
	}
	a.Git.Ref = "other"
	if err := a.CheckReference(id); !errors.Is(err, ErrInvalid) {
		t.Errorf("other content under the same ID: %v", err)
	}
	for key, value := range map[string]string{
		ParamSource: "svn", ParamURL: "h", ParamRef: "a..b", ParamPeriod: "1", ParamDepth: "0",
		ParamSubPath: "../x", ParamSignalFile: "site", ParamSize: "1Gi", "branch": "main", ParamMode: "0755",
	} {
		bad := map[string]string{ParamSource: "git", ParamURL: "https://h/team/site.git"}
		bad[key] = value
		if _, err := ParseParameters(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %s is taken: %v", key, value, err)
		}
	}
}
