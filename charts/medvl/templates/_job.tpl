{{/* The spec of a Job. Takes what the pod template takes, and may take failCodes: exit codes that end it beside medvl's. */}}
{{- define "medvl.jobSpec" -}}
{{- $stage := index .root.Values .stage -}}
{{ default "backoffLimit" .backoffLimit }}: {{ int64 $stage.backoffLimit }}
{{- with include "medvl.timeLimits" $stage }}
{{ . }}
{{- end }}
podReplacementPolicy: Failed
podFailurePolicy:
  rules:
    - action: Ignore
      onPodConditions: [{type: DisruptionTarget, status: "True"}]
    - action: FailJob  # settings, data, a missing input, access, another schema: trying again cannot help
      onExitCodes: {operator: In, values: {{ concat (list 64 65 66) (default list .failCodes) (list 77 78) | toJson }}}
template:
  {{- include "medvl.podTemplate" (merge (dict "restartPolicy" "Never") .) | nindent 2 }}
{{- end }}
