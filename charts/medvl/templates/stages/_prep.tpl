{{/* An Indexed Job: each index makes a share of the parts. The coordinator sets completions to prep.indexes. */}}
{{- define "medvl.stage.prep" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "medvl.stageMetadata" (dict "root" . "stage" "prep") | nindent 2 }}
spec:
  completionMode: Indexed
  {{- if not (kindIs "invalid" .Values.prep.parallelism) }}
  parallelism: {{ int64 .Values.prep.parallelism }}
  {{- end }}
  {{- include "medvl.jobSpec" (dict
    "root" . "stage" "prep" "image" "prep" "backoffLimit" "backoffLimitPerIndex") | nindent 2 }}
{{- end }}
