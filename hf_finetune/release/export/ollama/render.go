// Renders a template in Go as Ollama does: https://github.com/ollama/ollama/blob/main/template/template.go
package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

type message struct{ Role, Content string }

type conversation struct {
	Template string
	Messages []message
	Tools    bool
}

// What Ollama does first: the texts of neighbors of one role become one message.
func collate(given []message) (string, []*message) {
	system, collated := []string{}, []*message{}
	for i := range given {
		if given[i].Role == "system" {
			system = append(system, given[i].Content)
		}
		if last := len(collated) - 1; last >= 0 && collated[last].Role == given[i].Role && given[i].Role != "tool" {
			collated[last].Content += "\n\n" + given[i].Content
		} else {
			collated = append(collated, &given[i])
		}
	}
	return strings.Join(system, "\n\n"), collated
}

func render(given conversation) (text, refusal string) {
	parsed, err := template.New("").Option("missingkey=zero").Parse(given.Template)
	if err != nil {
		return "", err.Error()
	}
	if given.Tools {
		return "", "does not support tools" // it names no .Tools
	}
	system, messages := collate(given.Messages)
	var out bytes.Buffer
	err = parsed.Execute(&out, map[string]any{"System": system, "Messages": messages, "Tools": nil, "Response": ""})
	if err != nil {
		return "", err.Error()
	}
	return out.String(), ""
}

func main() {
	var asked []conversation
	if err := json.NewDecoder(os.Stdin).Decode(&asked); err != nil {
		panic(err)
	}
	answers := []map[string]string{}
	for _, each := range asked {
		text, refusal := render(each)
		answers = append(answers, map[string]string{"text": text, "refusal": refusal})
	}
	json.NewEncoder(os.Stdout).Encode(answers)
}
