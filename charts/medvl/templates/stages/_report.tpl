{{- define "medvl.stage.report" -}}
apiVersion: batch/v1
kind: Job
metadata:
  {{- include "medvl.stageMetadata" (dict "root" . "stage" "report") | nindent 2 }}
spec:
  {{- include "medvl.jobSpec" (dict "root" . "stage" "report" "image" "prep") | nindent 2 }}
{{- end }}
