package machine

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// client speaks HTTP to the machine's PID 1 over its socket.
func (m Machine) client() *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", m.Path(InitSocket))
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

func (m Machine) call(ctx context.Context, method, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://machine"+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := m.client().Do(request)
	if err != nil {
		return nil, fmt.Errorf("ask PID 1 of %s: %w", m.Name, err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return nil, fmt.Errorf("ask PID 1 of %s: %w", m.Name, err)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("PID 1 of %s: %s: %s", m.Name, response.Status, body)
	}
	return body, nil
}

// Units returns the state of the machine's programs.
func (m Machine) Units(ctx context.Context) ([]UnitStatus, error) {
	body, err := m.call(ctx, http.MethodGet, "/units")
	if err != nil {
		return nil, err
	}
	var units []UnitStatus
	if err := json.Unmarshal(body, &units); err != nil {
		return nil, fmt.Errorf("ask PID 1 of %s: %w", m.Name, err)
	}
	return units, nil
}

// Action is what PID 1 can be asked to do with a unit.
type Action string

// The actions; each returns when it is done. Restart and Stop send SIGTERM, and
// SIGKILL after ten seconds; Kill sends SIGKILL, and PID 1 starts the program again.
const (
	Start   Action = "start"
	Stop    Action = "stop"
	Restart Action = "restart"
	Kill    Action = "kill"
)

// Do carries out an action on one unit.
func (m Machine) Do(ctx context.Context, action Action, unit string) error {
	_, err := m.call(ctx, http.MethodPost, "/units/"+url.PathEscape(unit)+"/"+string(action))
	return err
}

// WaitInit returns once PID 1 serves its socket.
func (m Machine) WaitInit(ctx context.Context) error {
	for {
		_, err := m.Units(ctx)
		if err == nil {
			return nil
		}
		if !m.Alive() {
			return fmt.Errorf("machine %s ended during its start: see its init.log", m.Name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("machine %s did not start: %w", m.Name, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}
