// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"mime"
	"mime/multipart"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// channels are the services that alerts go to, on loopback: they accept what the real ones
// accept, and refuse what these refuse.
type channels struct {
	smtp, slack, wecom, robot, response string // addresses

	mu      sync.Mutex
	got     map[string][]string // texts by channel; guarded by mu, as all below
	refused []string
	tokens  int         // that WeCom has given
	robots  []time.Time // of the last messages to the robot
}

const smtpPassword, wecomSecret = "a password", "a secret"

func newChannels(t *testing.T) *channels {
	t.Helper()
	c := &channels{got: map[string][]string{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // a test
	require.NoError(t, err)
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = listener.Close(); serving.Wait() })
	c.smtp = listener.Addr().String()
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				c.mail(conn)
			})
		}
	})
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	c.slack, c.wecom, c.robot = serve(c.serveSlack), serve(c.serveWeCom), serve(c.serveRobot)
	c.response = serve(func(w http.ResponseWriter, r *http.Request) {
		var message struct{ Alerts []map[string]any }
		if json.NewDecoder(r.Body).Decode(&message) != nil || len(message.Alerts) == 0 {
			http.Error(w, "no alerts", http.StatusBadRequest)
			return
		}
		c.add("response", fmt.Sprint(message.Alerts))
	})
	return c
}

func (c *channels) add(channel, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.got[channel] = append(c.got[channel], text)
}

func (c *channels) refuse(format string, a ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = append(c.refused, fmt.Sprintf(format, a...))
}

// with are the texts of a channel that hold another.
func (c *channels) with(channel, part string) (all []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, text := range c.got[channel] {
		if strings.Contains(text, part) {
			all = append(all, text)
		}
	}
	return all
}

// mail serves one connection as a mail server does: it wants a password before a message.
func (c *channels) mail(conn net.Conn) {
	in := bufio.NewReader(conn)
	say := func(format string, a ...any) { _, _ = fmt.Fprintf(conn, format+"\r\n", a...) }
	say("220 mail.test")
	knows := false
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		command, argument, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch strings.ToUpper(command) {
		case "EHLO":
			say("250-mail.test\r\n250-AUTH PLAIN\r\n250 8BITMIME")
		case "AUTH":
			_, secret, _ := strings.Cut(argument, " ")
			raw, _ := base64.StdEncoding.DecodeString(secret)
			if knows = strings.HasSuffix(string(raw), "\x00"+smtpPassword); knows {
				say("235 2.7.0 Accepted")
			} else {
				say("535 5.7.8 Authentication failed")
				c.refuse("mail: wrong password")
			}
		case "MAIL", "RCPT":
			if knows {
				say("250 2.1.0 OK")
			} else {
				say("530 5.7.0 Authentication required")
			}
		case "DATA":
			say("354 Go ahead")
			if err := c.message(in); err != nil {
				say("554 5.6.0 %v", err)
				c.refuse("mail: %v", err)
			} else {
				say("250 2.0.0 Queued")
			}
		case "QUIT":
			say("221 Bye")
			return
		default:
			say("502 5.5.1 %s?", command)
		}
	}
}

// message reads a message of a subject and parts, and keeps subject and plain text.
func (c *channels) message(in *bufio.Reader) error {
	var raw strings.Builder
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return err
		}
		if line == ".\r\n" {
			break
		}
		raw.WriteString(strings.TrimPrefix(line, "."))
	}
	m, err := mail.ReadMessage(strings.NewReader(raw.String()))
	if err != nil {
		return err
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil {
		return err
	}
	_, parameters, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		return err
	}
	plain, html := "", ""
	for parts := multipart.NewReader(m.Body, parameters["boundary"]); ; {
		part, err := parts.NextPart() // decodes quoted-printable
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		body, err := io.ReadAll(part)
		if err != nil {
			return err
		}
		if strings.HasPrefix(part.Header.Get("Content-Type"), "text/plain") {
			plain = string(body)
		} else {
			html = string(body)
		}
	}
	c.add("email", "Subject: "+subject+"\n"+strings.ReplaceAll(plain, "\r\n", "\n"))
	c.add("email.html", html)
	return nil
}

// slackLink is what Slack reads as a link; any other text in angle brackets may call everybody
// in a channel.
var slackLink = regexp.MustCompile(`<(https?://[^<>|]+)\|([^<>|]+)>`)

// serveSlack answers "ok" to a message with attachments that Slack shows whole, and keeps it as
// Slack shows it.
func (c *channels) serveSlack(w http.ResponseWriter, r *http.Request) {
	var message struct {
		Channel     string
		Attachments []struct{ Title, Text, Fallback string }
	}
	err := json.NewDecoder(r.Body).Decode(&message)
	if err != nil || message.Channel == "" || len(message.Attachments) != 1 || len([]rune(message.Attachments[0].Text)) > 40_000 {
		http.Error(w, "invalid_attachments", http.StatusBadRequest)
		c.refuse("slack: %v %+v", err, message)
		return
	}
	text := slackLink.ReplaceAllString(message.Attachments[0].Text, "$2 $1")
	if strings.ContainsAny(text, "<>") {
		c.refuse("slack: markup in %q", text)
	}
	c.add("slack", message.Attachments[0].Title+"\n"+html.UnescapeString(text))
	_, _ = io.WriteString(w, "ok")
}

// serveWeCom answers as WeCom does to an application: its first token is no longer valid when
// it is used.
func (c *channels) serveWeCom(w http.ResponseWriter, r *http.Request) {
	answer := func(code int, more string) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"errcode": %d, "errmsg": "%d"%s}`, code, code, more)
	}
	q := r.URL.Query()
	switch {
	case strings.HasSuffix(r.URL.Path, "/gettoken"):
		if q.Get("corpsecret") != wecomSecret {
			answer(40001, "")
			c.refuse("wecom: secret %q", q.Get("corpsecret"))
			return
		}
		c.mu.Lock()
		c.tokens++
		n := c.tokens
		c.mu.Unlock()
		answer(0, fmt.Sprintf(`, "access_token": "token-%d", "expires_in": 7200`, n))
	case strings.HasSuffix(r.URL.Path, "/message/send"):
		if q.Get("access_token") == "token-1" {
			answer(42001, "")
			return
		}
		var message struct {
			AgentID, MsgType string
			Markdown         struct{ Content string }
		}
		err := json.NewDecoder(r.Body).Decode(&message)
		if err != nil || message.MsgType != "markdown" || message.Markdown.Content == "" || message.AgentID == "" || len(message.Markdown.Content) > 2048 {
			answer(40058, "")
			c.refuse("wecom: %v, %d bytes: %+v", err, len(message.Markdown.Content), message)
			return
		}
		c.add("wecom_app", message.Markdown.Content)
		answer(0, "")
	default:
		http.NotFound(w, r)
	}
}

// serveRobot answers as a group robot does, with 200 whatever it says.
func (c *channels) serveRobot(w http.ResponseWriter, r *http.Request) {
	answer := func(code int) { _, _ = fmt.Fprintf(w, `{"errcode": %d, "errmsg": "%d"}`, code, code) }
	var message struct {
		MsgType  any
		Markdown struct{ Content any }
	}
	err := json.NewDecoder(r.Body).Decode(&message)
	content, isText := message.Markdown.Content.(string)
	switch {
	case err != nil || message.MsgType != "markdown" || !isText || content == "":
		answer(40008)
		c.refuse("robot: %v %+v", err, message)
		return
	case len(content) > 4096:
		answer(45002)
		c.refuse("robot: %d bytes", len(content))
		return
	}
	c.mu.Lock()
	c.robots = append(c.robots, time.Now())
	minute := 0
	for _, at := range c.robots {
		if time.Since(at) < time.Minute {
			minute++
		}
	}
	c.mu.Unlock()
	if minute > 20 {
		answer(45009)
		c.refuse("robot: %d messages in a minute", minute)
		return
	}
	c.add("wecom_robot", content)
	answer(0)
}
